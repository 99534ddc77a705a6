use event_manager::{config::Config, model::Endpoint, reactor::{Input, Reactor}};
use std::time::Duration;

#[test]
fn thin() {
    let any = || vec![Endpoint::tcp("127.0.0.1", 0)];
    let config = Config { pub_addresses: any(), sub_addresses: any(), request_addresses: any(), streamer_ports: 0..=0, ..Config::default() };
    let (tx, _rx) = tokio::sync::mpsc::channel(10);
    let reactor = Reactor::start(config, tx).unwrap();
    let ctx = zmq::Context::new();
    let req = ctx.socket(zmq::REQ).unwrap();
    req.set_rcvtimeo(3000).unwrap();
    req.connect(&reactor.bound.requests[0].to_string()).unwrap();
    req.send_multipart(["2.1", "2", "s1\0Billing\0Order"], 0).unwrap();
    let answer = req.recv_multipart(0).unwrap();
    println!("{:?}", answer.iter().map(|a| String::from_utf8_lossy(a).into_owned()).collect::<Vec<_>>());
    let data = String::from_utf8(answer[2].clone()).unwrap();
    let pull = data.split('\0').nth(2).unwrap();
    let dealer = ctx.socket(zmq::DEALER).unwrap();
    dealer.set_rcvtimeo(3000).unwrap();
    dealer.connect(&pull.replace("localhost", "127.0.0.1")).unwrap();
    dealer.send("READY", 0).unwrap();
    let publisher = ctx.socket(zmq::XPUB).unwrap();
    publisher.set_rcvtimeo(3000).unwrap();
    publisher.connect(&reactor.bound.publishers[0].to_string()).unwrap();
    assert_eq!(publisher.recv_bytes(0).unwrap(), [1]);
    let sub = ctx.socket(zmq::SUB).unwrap();
    sub.set_rcvtimeo(3000).unwrap();
    sub.set_subscribe(b"Order").unwrap();
    sub.connect(&reactor.bound.subscribers[0].to_string()).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    for n in 0..1000 {
        publisher.send_multipart(["OrderCreated", &n.to_string()], 0).unwrap();
    }
    for n in 0..1000 {
        assert_eq!(dealer.recv_multipart(0).unwrap()[1], n.to_string().as_bytes());
        assert_eq!(sub.recv_multipart(0).unwrap()[1], n.to_string().as_bytes());
    }
    req.send_multipart(["2.0100", "0", ""], 0).unwrap();
    println!("{}", String::from_utf8_lossy(&req.recv_multipart(0).unwrap()[2]));
    reactor.inputs.blocking_send(Input::Stop(Duration::from_secs(5))).unwrap();
    assert!(reactor.join());
}
