#!/usr/bin/env bash
# Names a wheel after the Linux that it needs, by what auditwheel finds in its libraries: manylinux_2_28, or, after the
# reasons, a newer one. PyTorch's libraries are not searched for: they are loaded before ours.
# usage: tools/tag_wheel.sh WHEEL FOLDER      auditwheel and patchelf are on the PATH; on other systems it copies
set -euo pipefail
wheel=$1 folder=$2
mkdir -p "$folder"
if [ "$(uname)" != Linux ]; then exec cp "$wheel" "$folder"; fi

repair() {
  auditwheel repair --plat "$1" --only-plat --exclude 'libtorch*.so' --exclude 'libc10*.so' -w "$folder" "$wheel" 2>&1
}
wanted=manylinux_2_28_$(uname -m)
if ! said=$(repair "$wanted"); then
  printf '%s\n' "$said" "tag_wheel: not a $wanted wheel: named after what auditwheel finds instead" >&2
  repair auto >&2
fi
