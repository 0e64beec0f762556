#!/bin/sh
# A guest with a passed-through device; neither QEMU nor its user can open /dev/iommu.
# Usage: ./qemu.sh 0000:6a:01.0 disk.img
set -eu
device=${1:?the PCI address of a device that is bound to vfio-pci}
disk=${2:?a disk image}

# The set goes with QEMU: it inherits descriptor 3 and holds the set until it ends.
exec ioasidctl exec --iommufd --quota 64 --label "guest $device" -- \
    qemu-system-x86_64 -machine q35,accel=kvm,kernel-irqchip=split -m 4G -nographic \
    -object iommufd,id=iommufd0,fd=4 \
    -device "vfio-pci,host=$device,iommufd=iommufd0" \
    -drive "file=$disk,if=virtio,format=raw"
