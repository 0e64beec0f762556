#!/usr/bin/python3
"""Asks ioasidd for a set of PASIDs over D-Bus, and allocates from it through the descriptor that it gets.

Needs python3-dbus. Usage: allocate.py [COUNT]; the bus is the system's, or DBUS_SYSTEM_BUS_ADDRESS. The ids belong to
the set, and the set lives while somebody has its descriptor: here until this program ends.
"""

import array
import json
import socket
import struct
import sys

import dbus

# Frames of the socket protocol: version, kind, op, flags, id, then a body of JSON. See ioasid-set(7).
HEADER = struct.Struct("<BBHIQ")
VERSION, REQUEST, REPLY = 1, 1, 2
OPEN_SESSION, ALLOC, FREE = 48, 64, 65


def frame(op, number, body):
    return HEADER.pack(VERSION, REQUEST, op, 0, number) + json.dumps(body).encode()


class Session:
    """A private way to a set: others can have theirs on the same descriptor."""

    def __init__(self, set_fd):
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with socket.socket(fileno=set_fd) as set_socket, theirs:
            rider = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [theirs.fileno()]))]
            set_socket.sendmsg([frame(OPEN_SESSION, 1, {})], rider)
            # Detached: closing it would be the set's end.
            set_socket.detach()
        self.number = 1
        self.set = self.answer()["set"]

    def answer(self):
        message = self.socket.recv(HEADER.size + 65536)
        if not message:
            sys.exit("the service hung up")
        _, kind, _, _, _ = HEADER.unpack_from(message)
        body = json.loads(message[HEADER.size:])
        if kind != REPLY:
            sys.exit(f"refused: {body}")
        return body

    def call(self, op, body):
        self.number += 1
        self.socket.send(frame(op, self.number, body))
        return self.answer()


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    service = dbus.SystemBus().get_object("org.ioasid1", "/org/ioasid1")
    manager = dbus.Interface(service, "org.ioasid1.Manager")
    options = {"quota": dbus.UInt32(count), "label": "python example"}
    try:
        set_fd, path = manager.CreateSet(dbus.Dictionary(options, signature="sv"))
    except dbus.DBusException as refused:
        sys.exit(f"{refused.get_dbus_name()}: {refused.get_dbus_message()}")
    session = Session(set_fd.take())
    pasids = session.call(ALLOC, {"count": count})["pasids"]
    shown = dbus.Interface(dbus.SystemBus().get_object("org.ioasid1", path), "org.freedesktop.DBus.Properties")
    leased = shown.Get("org.ioasid1.Set", "Leased")
    print(json.dumps({"set": str(path), "pasids": pasids, "leased": int(leased)}))
    session.call(FREE, {"pasids": pasids})


if __name__ == "__main__":
    main()
