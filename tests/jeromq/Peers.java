// Uses an event manager with JeroMQ 0.3, which speaks ZMTP 2.0, as old clients do.
//
//     Peers.java DIRECTORY
//
// Binds a publisher, and writes its port to DIRECTORY/port. Then waits for DIRECTORY/addresses: the
// addresses of requests and of publishers, a line each.

import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.zeromq.ZMQ;

public class Peers {
    static final int PATIENCE_MS = 10_000;
    static final int SILENCE_MS = 300;
    static final String SUBSCRIBE = "TK_EVENT_MANAGER_SUBSCRIBE";
    static final ZMQ.Context CONTEXT = ZMQ.context(1);
    static int passed;
    static int failed;

    static void check(String what, boolean holds, Object seen) {
        passed += holds ? 1 : 0;
        failed += holds ? 0 : 1;
        System.out.println((holds ? "  ok: " : "  FAILED: ") + what + (holds ? "" : " (" + seen + ")"));
    }

    static void equal(String what, Object seen, Object expected) {
        check(what, expected.equals(seen), seen);
    }

    static ZMQ.Socket socket(int kind) {
        ZMQ.Socket socket = CONTEXT.socket(kind);
        socket.setLinger(0);
        socket.setReceiveTimeOut(PATIENCE_MS);
        socket.setSendTimeOut(PATIENCE_MS);
        return socket;
    }

    static ZMQ.Socket connected(int kind, String address) {
        ZMQ.Socket socket = socket(kind);
        socket.connect(address);
        return socket;
    }

    static void send(ZMQ.Socket socket, String... frames) {
        for (int i = 0; i < frames.length; i++) {
            socket.send(frames[i].getBytes(StandardCharsets.UTF_8), i + 1 < frames.length ? ZMQ.SNDMORE : 0);
        }
    }

    /** A message's frames; none if nothing comes. */
    static List<String> receive(ZMQ.Socket socket) {
        List<String> frames = new ArrayList<>();
        do {
            byte[] frame = socket.recv(0);
            if (frame == null) {
                return frames;
            }
            frames.add(new String(frame, StandardCharsets.UTF_8));
        } while (socket.hasReceiveMore());
        return frames;
    }

    static List<String> receiveWithin(ZMQ.Socket socket, int ms) {
        socket.setReceiveTimeOut(ms);
        List<String> frames = receive(socket);
        socket.setReceiveTimeOut(PATIENCE_MS);
        return frames;
    }

    static List<String> ask(ZMQ.Socket requests, String token, String... fields) {
        send(requests, token, "2", String.join("\0", fields));
        return receive(requests);
    }

    /** Subscribes a service; where its workers connect. */
    static String subscribe(ZMQ.Socket requests, String service, String subject) {
        List<String> answer = ask(requests, SUBSCRIBE, service + "-1", service, subject);
        equal(service + " subscribes", answer.isEmpty() ? "nothing" : answer.get(0), "TK_SYS_ACK");
        return answer.isEmpty() ? "" : answer.get(2).split("\0")[2];
    }

    /** A PUB drops what it sends before it is heard: sends until one comes through, and takes that. */
    static void probe(ZMQ.Socket publisher, ZMQ.Socket receiver, String subject) {
        for (int n = 1; n <= PATIENCE_MS / 20; n++) {
            send(publisher, subject, "probe");
            if (!receiveWithin(receiver, 20).isEmpty()) {
                break;
            }
        }
        send(publisher, subject, "last probe");
        List<String> frames;
        do {
            frames = receive(receiver);
        } while (!frames.isEmpty() && !frames.equals(List.of(subject, "last probe")));
        check("events of " + subject + " come through", !frames.isEmpty(), "nothing");
    }

    static void forwarder(String publishers, String subscribers, ZMQ.Socket bound) {
        ZMQ.Socket subscriber = socket(ZMQ.SUB);
        subscriber.subscribe("Order".getBytes(StandardCharsets.UTF_8));
        subscriber.subscribe("Bound".getBytes(StandardCharsets.UTF_8));
        subscriber.connect(subscribers);
        ZMQ.Socket publisher = connected(ZMQ.PUB, publishers);
        probe(publisher, subscriber, "Order");
        probe(bound, subscriber, "Bound");

        ZMQ.Socket xpub = connected(ZMQ.XPUB, publishers);
        equal("an XPUB hears our subscription", Arrays.toString(xpub.recv(0)), "[1]");
        ZMQ.Socket xsub = connected(ZMQ.XSUB, subscribers);
        xsub.send(new byte[] {1, 'O'}, 0);
        probe(xpub, xsub, "Orders");
        while (!receive(subscriber).equals(List.of("Orders", "last probe"))) {
        }

        send(publisher, "Unwanted", "one");
        send(publisher, "OrderCreated", "two");
        equal("a SUB hears what it wants", receive(subscriber), List.of("OrderCreated", "two"));
        String large = "x".repeat(3_000_000);
        send(publisher, "OrderCreated", large);
        check("three megabytes come whole", receive(subscriber).equals(List.of("OrderCreated", large)), "others");
        subscriber.unsubscribe("Order".getBytes(StandardCharsets.UTF_8));
        equal("and nothing that it does not want any more", settled(subscriber, publisher), List.of());
        for (ZMQ.Socket socket : List.of(subscriber, publisher, xpub, xsub)) {
            socket.close();
        }
    }

    /** What comes when an event of no interest has been sent again and again. */
    static List<String> settled(ZMQ.Socket subscriber, ZMQ.Socket publisher) {
        List<String> frames = List.of("nothing was sent");
        for (int n = 0; n < 20 && !frames.isEmpty(); n++) {
            send(publisher, "OrderCreated", "unwanted");
            frames = receiveWithin(subscriber, SILENCE_MS);
        }
        return frames;
    }

    static void workers(ZMQ.Socket requests, String publishers) {
        ZMQ.Socket publisher = connected(ZMQ.XPUB, publishers);
        publisher.recv(0);
        ZMQ.Socket plain = socket(ZMQ.DEALER);
        plain.setIdentity("till-1".getBytes(StandardCharsets.UTF_8));
        plain.connect(subscribe(requests, "Plain", "Plain"));
        send(plain, "READY");
        send(publisher, "Plain", "one");
        equal("a DEALER gets its event", receive(plain), List.of("Plain", "one"));

        ZMQ.Socket acknowledges = connected(ZMQ.DEALER, subscribe(requests, "Acked", "Acked"));
        send(acknowledges, "READY {\"ack\": true}");
        send(publisher, "Acked", "one");
        for (int attempt = 1; attempt <= 2; attempt++) {
            List<String> event = receive(acknowledges);
            String[] words = event.isEmpty() ? new String[3] : event.get(0).split(" ");
            equal("attempt " + attempt, words[2], String.valueOf(attempt));
            send(acknowledges, (attempt == 1 ? "NAK " : "ACK ") + words[1] + (attempt == 1 ? " 10" : ""));
        }

        ZMQ.Socket lockstep = connected(ZMQ.REQ, subscribe(requests, "Lockstep", "Lockstep"));
        for (String data : List.of("one", "two")) {
            send(lockstep, "READY");
            send(publisher, "Lockstep", data);
            equal("a REQ gets its event", receive(lockstep), List.of("Lockstep", data));
        }
        for (ZMQ.Socket socket : List.of(publisher, plain, acknowledges, lockstep)) {
            socket.close();
        }
    }

    static void requests(ZMQ.Socket requests) {
        equal("KEEP_ALIVE of nobody", ask(requests, "TK_EVENT_MANAGER_KEEP_ALIVE", "nobody").get(0), "TK_SYS_NAK");
        ZMQ.Socket dealer = connected(ZMQ.DEALER, lines.get(0));
        send(dealer, "", "TK_EVENT_MANAGER_STATUS", "2", "");
        List<String> answer = receive(dealer);
        String status = answer.isEmpty() ? "nothing" : answer.get(3);
        int at = status.indexOf("\"zmtp\":");
        String said = at < 0 ? status : status.substring(at, Math.min(at + 700, status.length()));
        System.out.println("  STATUS says " + said);
        check("and names ZMTP 2.0", said.contains("\"2.0\":"), said);
        dealer.close();
    }

    static List<String> lines;

    public static void main(String[] args) throws Exception {
        Path directory = Path.of(args[0]);
        ZMQ.Socket bound = socket(ZMQ.PUB);
        int port = bound.bindToRandomPort("tcp://127.0.0.1");
        Files.writeString(directory.resolve("port.new"), String.valueOf(port));
        Files.move(directory.resolve("port.new"), directory.resolve("port"));
        while (!Files.exists(directory.resolve("addresses"))) {
            Thread.sleep(50);
        }
        lines = Files.readAllLines(directory.resolve("addresses"));
        ZMQ.Socket requests = connected(ZMQ.REQ, lines.get(0));
        forwarder(lines.get(1), lines.get(2), bound);
        workers(requests, lines.get(1));
        requests(requests);
        requests.close();
        bound.close();
        System.out.println(passed + " checks passed, " + failed + " failed");
        System.exit(failed == 0 && passed > 0 ? 0 : 1);
    }
}
