//! A way to a server that can be cut, or holds up what goes one way or the other.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use event_manager_wire::model::Endpoint;

pub struct Way {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<WayState>,
    /// What goes there is held up; what comes back is.
    held: [AtomicBool; 2],
}

#[derive(Default)]
struct WayState {
    is_cut: bool,
    open: Vec<TcpStream>,
}

impl Way {
    /// To a server at `host:port`, or a URL of it.
    pub fn to(target: &str) -> Self {
        Self::from("127.0.0.1", target)
    }

    /// The same from an address of ours.
    pub fn from(host: &str, target: &str) -> Self {
        let listener = TcpListener::bind((host, 0)).expect("a port");
        let address = listener.local_addr().expect("it is bound");
        let target = target.rsplit('/').next().unwrap_or_default().to_owned();
        let shared = Arc::<Shared>::default();
        let of_thread = Arc::clone(&shared);
        // It ends with the process, as what it waits for does.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let mut state = of_thread.state.lock().expect("a lock");
                if state.is_cut {
                    continue;
                }
                let Ok(other) = TcpStream::connect(&target) else {
                    continue;
                };
                for (direction, from, to) in [(0, &stream, &other), (1, &other, &stream)] {
                    let _ = from.set_nodelay(true);
                    let (from, to) = (from.try_clone(), to.try_clone());
                    let (from, to) = (from.expect("a copy"), to.expect("a copy"));
                    let shared = Arc::clone(&of_thread);
                    std::thread::spawn(move || pass_on(from, to, &shared.held[direction]));
                }
                state.open.extend([stream, other]);
            }
        });
        Self { address, shared }
    }

    #[allow(dead_code, reason = "for the tests with engines")]
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    pub fn endpoint(&self) -> Endpoint {
        Endpoint::tcp(self.address.ip().to_string(), self.address.port())
    }

    /// Connections end, and new ones do at once.
    pub fn set_cut(&self, is_cut: bool) {
        let mut state = self.shared.state.lock().expect("a lock");
        state.is_cut = is_cut;
        if is_cut {
            for stream in state.open.drain(..) {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
    }

    /// What goes there waits, or what comes back; later it arrives.
    #[allow(dead_code, reason = "for the tests with engines")]
    pub fn hold(&self, there: bool, back: bool) {
        for (held, is_held) in self.shared.held.iter().zip([there, back]) {
            held.store(is_held, Ordering::Relaxed);
        }
    }
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, is_held: &AtomicBool) {
    let mut buffer = [0; 4096];
    while let Ok(read) = from.read(&mut buffer) {
        while is_held.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(5));
        }
        if read == 0 || to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}
