"""Publishes an event each second.

    publisher.py PUBLISH_ADDRESS SUBJECT
"""

import itertools
import signal
import sys
import time

import zmq


def main(address, subject):
    # Else the first process of a container doesn't hear it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    # A PUB would lose what it sends before it is connected; an XPUB hears when it is.
    publisher = zmq.Context().socket(zmq.XPUB)
    publisher.linger = 0
    publisher.connect(address)
    publisher.recv()
    for number in itertools.count(1):
        publisher.send_multipart([subject.encode(), b'{"order": %d}' % number])
        time.sleep(1)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
