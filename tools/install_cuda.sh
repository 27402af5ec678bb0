#!/usr/bin/env bash
# Installs nvcc 13.0 and what the CUDA kernels are compiled and linked with, from PyPI, into a folder.
# usage: tools/install_cuda.sh FOLDER      then build with CUDA_HOME=FOLDER/nvidia/cu13
set -euo pipefail
packages=(nvcc==13.0.\* crt==13.0.\* runtime==13.0.\* cccl==13.0.\*)
python3 -m pip install -q --target "$1" "${packages[@]/#/nvidia-cuda-}" 'nvidia-nvvm==13.0.*'
ln -sfn lib "$1/nvidia/cu13/lib64"  # where nvcc looks
