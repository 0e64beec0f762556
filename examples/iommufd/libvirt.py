#!/usr/bin/env python3
"""Starts a domain with the iommufd that this process was given.

    ioasidctl exec --iommufd --cgroup /machine.slice -- ./libvirt.py libvirt-domain.xml

The group lives as long as this connection to libvirt, and the set as long as descriptor 3: keep the program running.
"""
import os
import sys

import libvirt

GROUP = "ioasid-iommu"


def main() -> None:
    with open(sys.argv[1], encoding="utf-8") as file:
        xml = file.read()
    connection = libvirt.open("qemu:///system")
    domain = connection.defineXML(xml)
    domain.FDAssociate(GROUP, [int(os.environ["IOASID_IOMMUFD"])])
    domain.create()
    print(f"{domain.name()} runs; its set goes when this program ends", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
