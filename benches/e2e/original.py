"""The service that event-manager replaces, as it is built: a forwarder, and a streamer thread for
each service. Prints the ports: publishers, subscribers, then one for each service.

Usage: original.py [SUBJECT...], one subject for each service.
"""

import sys
import threading

import zmq

HWM = 100_000


def bind(context, kind):
    socket = context.socket(kind)
    socket.set_hwm(HWM)
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    return socket, port


def forward(publishers, subscribers):
    zmq.proxy(publishers, subscribers)


def stream(events, router):
    """Deals the events of one service to the workers that said READY, in turn."""
    workers = []
    turn = 0
    poller = zmq.Poller()
    poller.register(router, zmq.POLLIN)
    while True:
        if workers:
            poller.register(events, zmq.POLLIN)
        for socket, _ in poller.poll():
            if socket is router:
                identity = router.recv_multipart()[0]
                if identity not in workers:
                    workers.append(identity)
            else:
                turn = (turn + 1) % len(workers)
                router.send_multipart([workers[turn], *events.recv_multipart()])


def main():
    context = zmq.Context()
    publishers, publishers_port = bind(context, zmq.XSUB)
    subscribers, subscribers_port = bind(context, zmq.XPUB)
    ports = [publishers_port, subscribers_port]
    threads = [threading.Thread(target=forward, args=(publishers, subscribers))]
    for subject in sys.argv[1:]:
        router, port = bind(context, zmq.ROUTER)
        ports.append(port)
        events = context.socket(zmq.SUB)
        events.set_hwm(HWM)
        events.subscribe(subject)
        events.connect(f"tcp://127.0.0.1:{subscribers_port}")
        threads.append(threading.Thread(target=stream, args=(events, router)))
    for thread in threads:
        thread.daemon = True
        thread.start()
    print(*ports, flush=True)
    threading.Event().wait()


main()
