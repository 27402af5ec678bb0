from .op import message_passing as message_passing
