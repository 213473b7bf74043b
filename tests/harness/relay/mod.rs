//! A path over UDP with delay, loss, a rate and a largest packet: packets to it come out at a server later, or not at all, and those of
//! the server come back the same way.
//!
//! It stands in for `tc netem` where that cannot be had. It has threads of its own, so that what it measures with is
//! not what it measures: one receives from all clients, one from the server for each client, and one for each
//! direction sends at the time that [`Link`] says. What a direction carries is shared by all its clients.

mod link;

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use socket2::SockRef;

pub use link::{Fate, Link, LinkTerms};

/// A path with two directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathTerms {
    /// From clients to the server.
    pub up: LinkTerms,
    /// From the server to clients.
    pub down: LinkTerms,
    /// Decides which packets are lost.
    pub seed: u64,
}

impl PathTerms {
    /// The same both ways, so that a packet and its answer take `rtt`.
    #[must_use]
    pub fn symmetric(rtt: Duration, seed: u64) -> Self {
        let link = LinkTerms::delay(rtt / 2);
        Self { up: link, down: link, seed }
    }
}

/// What a direction has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Packets that came out, or will.
    pub packets: u64,
    /// Packets lost by chance.
    pub lost: u64,
    /// Packets that found the queue full.
    pub dropped: u64,
    /// Packets that were larger than what passes.
    pub too_large: u64,
    /// Bytes of the largest packet that came out, without IP and UDP heads.
    pub largest: u64,
}

/// A path to one server. Ends when dropped.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    ends: Arc<AtomicBool>,
    up: Arc<Direction>,
    down: Arc<Direction>,
    threads: Vec<JoinHandle<()>>,
}

impl Relay {
    /// Begins a path from a free port of the loopback address to `server`.
    ///
    /// # Errors
    /// The system gives no socket or no thread.
    pub fn to(server: SocketAddr, terms: &PathTerms) -> io::Result<Self> {
        let front = Arc::new(socket()?);
        let address = front.local_addr()?;
        let ends = Arc::new(AtomicBool::new(false));
        let (up, up_packets) = Direction::new(terms.up, terms.seed);
        let (down, down_packets) = Direction::new(terms.down, terms.seed.wrapping_add(1));
        let clients = Clients { server, front, up: Arc::clone(&up), down: Arc::clone(&down), ends: Arc::clone(&ends) };
        let threads = vec![
            thread("relay-up", move || send(&up_packets))?,
            thread("relay-down", move || send(&down_packets))?,
            thread("relay-front", move || clients.run())?,
        ];
        Ok(Self { address, ends, up, down, threads })
    }

    /// Where clients send to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on so many bits a second get from the server to clients.
    pub fn set_down_rate(&self, rate_bit_s: u64) {
        self.down.link.lock().unwrap_or_else(PoisonError::into_inner).0.set_rate(rate_bit_s);
    }

    /// From clients to the server so far.
    #[must_use]
    pub fn up(&self) -> Carried {
        self.up.carried()
    }

    /// From the server to clients so far.
    #[must_use]
    pub fn down(&self) -> Carried {
        self.down.carried()
    }

    /// From now on only packets of so many bytes pass, both ways, IP and UDP heads included; and the largest one is
    /// looked for anew.
    pub fn narrow(&self, mtu: usize) {
        for direction in [&self.up, &self.down] {
            direction.link.lock().unwrap_or_else(PoisonError::into_inner).0.narrow(mtu);
            direction.largest.store(0, Ordering::Relaxed);
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Release);
        self.up.close();
        self.down.close();
        for thread in self.threads.drain(..) {
            // A thread that has panicked has printed why.
            let _ = thread.join();
        }
    }
}

/// A packet with the time at which it leaves the relay.
struct Packet {
    due: Instant,
    bytes: Vec<u8>,
    from: Arc<UdpSocket>,
    /// None for the address that the socket is connected to.
    to: Option<SocketAddr>,
}

#[derive(Debug)]
struct Direction {
    started: Instant,
    /// The link and where it puts packets; under one lock, so that packets leave in the order of their times.
    link: Mutex<(Link, Option<Sender<Packet>>)>,
    packets: AtomicU64,
    lost: AtomicU64,
    dropped: AtomicU64,
    too_large: AtomicU64,
    largest: AtomicU64,
}

impl Direction {
    fn new(terms: LinkTerms, seed: u64) -> (Arc<Self>, Receiver<Packet>) {
        let (sender, receiver) = mpsc::channel();
        let direction = Self {
            started: Instant::now(),
            link: Mutex::new((Link::new(terms, seed), Some(sender))),
            packets: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            too_large: AtomicU64::new(0),
            largest: AtomicU64::new(0),
        };
        (Arc::new(direction), receiver)
    }

    fn take(&self, bytes: &[u8], from: &Arc<UdpSocket>, to: Option<SocketAddr>) {
        let mut link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        let count = match link.0.take(self.started.elapsed(), bytes.len()) {
            Fate::Arrives(at) => {
                let packet = Packet { due: self.started + at, bytes: bytes.to_vec(), from: Arc::clone(from), to };
                // The sending thread goes only after this end.
                let _ = link.1.as_ref().map(|sender| sender.send(packet));
                self.largest.fetch_max(bytes.len() as u64, Ordering::Relaxed);
                &self.packets
            }
            Fate::Lost => &self.lost,
            Fate::Dropped => &self.dropped,
            Fate::TooLarge => &self.too_large,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    fn carried(&self) -> Carried {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Carried {
            packets: read(&self.packets),
            lost: read(&self.lost),
            dropped: read(&self.dropped),
            too_large: read(&self.too_large),
            largest: read(&self.largest),
        }
    }

    fn close(&self) {
        self.link.lock().unwrap_or_else(PoisonError::into_inner).1 = None;
    }
}

/// The clients' side: each gets a socket of its own towards the server, so that the server tells them apart.
struct Clients {
    server: SocketAddr,
    front: Arc<UdpSocket>,
    up: Arc<Direction>,
    down: Arc<Direction>,
    ends: Arc<AtomicBool>,
}

impl Clients {
    fn run(self) {
        let mut known: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
        let mut threads = Vec::new();
        receive(&self.front, &self.ends, |bytes, client| {
            if let Some(socket) = known.get(&client) {
                return self.up.take(bytes, socket, None);
            }
            // Without a socket the packet is lost, and the client tries again.
            let Ok((socket, thread)) = self.join(client) else { return };
            self.up.take(bytes, &socket, None);
            known.insert(client, socket);
            threads.push(thread);
        });
        for thread in threads {
            let _ = thread.join();
        }
    }

    fn join(&self, client: SocketAddr) -> io::Result<(Arc<UdpSocket>, JoinHandle<()>)> {
        let back = Arc::new(socket()?);
        back.connect(self.server)?;
        let (front, down) = (Arc::clone(&self.front), Arc::clone(&self.down));
        let (ends, from) = (Arc::clone(&self.ends), Arc::clone(&back));
        let returning = move || receive(&from, &ends, |bytes, _| down.take(bytes, &front, Some(client)));
        Ok((back, thread("relay-back", returning)?))
    }
}

/// Hands on what a socket receives until the relay ends.
fn receive(socket: &UdpSocket, ends: &AtomicBool, mut take: impl FnMut(&[u8], SocketAddr)) {
    let mut buffer = vec![0; LARGEST_PACKET];
    while !ends.load(Ordering::Acquire) {
        // Errors are those of a peer that is not there (yet), and the timeout that lets this end.
        if let Ok((len, from)) = socket.recv_from(&mut buffer) {
            take(&buffer[..len], from);
        }
    }
}

/// Sends packets at their times, which never fall.
fn send(packets: &Receiver<Packet>) {
    while let Ok(Packet { due, bytes, from, to }) = packets.recv() {
        let early = due.saturating_duration_since(Instant::now());
        if early > SOON {
            std::thread::sleep(early - SOON);
        }
        // What cannot be sent is lost, as on any path.
        let _ = match to {
            Some(to) => from.send_to(&bytes, to),
            None => from.send(&bytes),
        };
    }
}

fn socket() -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_read_timeout(Some(LOOKS_UP))?;
    // The system may give less; then a burst may lose packets that the link would have taken.
    let raw = SockRef::from(&socket);
    let _ = raw.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = raw.set_send_buffer_size(SOCKET_BUFFER);
    Ok(socket)
}

fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work)
}

/// Bytes of the longest UDP packet.
const LARGEST_PACKET: usize = 65_536;
/// Bytes that the relay's sockets hold while its threads wait for a CPU.
const SOCKET_BUFFER: usize = 4 << 20;
/// How often a thread that receives looks whether the relay has ended.
const LOOKS_UP: Duration = Duration::from_millis(50);
/// By how much a sleep is shortened, because it ends this much late.
const SOON: Duration = Duration::from_micros(60);

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that sends everything back.
    fn echo(count: usize) -> (SocketAddr, JoinHandle<()>) {
        let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        server.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let address = server.local_addr().unwrap();
        let answers = move || {
            let mut buffer = [0; 2_000];
            for _ in 0..count {
                let Ok((len, from)) = server.recv_from(&mut buffer) else { return };
                server.send_to(&buffer[..len], from).unwrap();
            }
        };
        (address, std::thread::spawn(answers))
    }

    fn client() -> UdpSocket {
        let socket = socket().unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket
    }

    /// Waits every now and then until the relay has taken what was sent: its socket does not hold much.
    fn keep_up(relay: &Relay, sent: u64) {
        let deadline = Instant::now() + Duration::from_secs(10);
        let taken = || relay.up().packets + relay.up().lost + relay.up().dropped;
        while sent.is_multiple_of(50) && taken() < sent && Instant::now() < deadline {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_packet_and_its_answer_take_the_round_trip_time() {
        let (server, echoing) = echo(21);
        let rtt = Duration::from_millis(40);
        let relay = Relay::to(server, &PathTerms::symmetric(rtt, 1)).unwrap();
        let client = client();
        let mut trips = Vec::new();
        for number in 0..21_u8 {
            let asked = Instant::now();
            client.send_to(&[number], relay.address()).unwrap();
            let mut answer = [0; 8];
            assert_eq!(client.recv_from(&mut answer).unwrap().0, 1);
            assert_eq!(answer[0], number);
            trips.push(asked.elapsed());
        }
        echoing.join().unwrap();
        // Never early. How late depends on what else the machine does.
        assert!(trips.iter().all(|trip| *trip >= rtt - 3 * SOON), "{trips:?}");
        assert_eq!((relay.up().packets, relay.down().packets), (21, 21));
    }

    #[test]
    fn two_clients_hear_their_own_answers_in_order() {
        let (server, echoing) = echo(200);
        let relay = Relay::to(server, &PathTerms::symmetric(Duration::from_millis(4), 1)).unwrap();
        let clients = [client(), client()];
        for number in 0..100 {
            for (who, client) in clients.iter().enumerate() {
                client.send_to(&[who as u8, number], relay.address()).unwrap();
            }
        }
        for (who, client) in clients.iter().enumerate() {
            for number in 0..100 {
                let mut answer = [0; 8];
                assert_eq!(client.recv_from(&mut answer).unwrap().0, 2);
                assert_eq!(answer[..2], [who as u8, number]);
            }
        }
        echoing.join().unwrap();
    }

    #[test]
    fn a_full_link_carries_its_rate_and_drops_the_rest() {
        // 16 Mbit/s, a queue of 100 ms; 400 packets of 1,000 bytes take 200 ms.
        let sink = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        sink.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        let link = LinkTerms { rate_bit_s: Some(16_000_000), queue_bytes: 200_000, ..LinkTerms::delay(Duration::ZERO) };
        let terms = PathTerms { up: link, down: link, seed: 1 };
        let relay = Relay::to(sink.local_addr().unwrap(), &terms).unwrap();
        let client = client();
        let began = Instant::now();
        for sent in 1..=400 {
            client.send_to(&[0; 972], relay.address()).unwrap();
            keep_up(&relay, sent);
        }
        let (mut arrived, mut last) = (0_u32, Instant::now());
        while sink.recv_from(&mut [0; 2_000]).is_ok() {
            last = Instant::now();
            arrived += 1;
        }
        assert_eq!(relay.up().packets + relay.up().dropped, 400);
        // The queue, and what the link carried while the burst came. None comes earlier than the link could carry it.
        assert!(relay.up().packets >= 200, "{:?}", relay.up());
        assert!(arrived > 0 && u64::from(arrived) <= relay.up().packets, "{arrived} arrived");
        assert!(last - began >= Duration::from_micros(500) * arrived, "{arrived} arrived in {:?}", last - began);
    }

    #[test]
    fn about_as_many_are_lost_as_said() {
        let sink = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let link = LinkTerms { loss_ppm: 100_000, ..LinkTerms::delay(Duration::ZERO) };
        let relay = Relay::to(sink.local_addr().unwrap(), &PathTerms { up: link, down: link, seed: 5 }).unwrap();
        let client = client();
        for sent in 1..=2_000 {
            client.send_to(&[0; 100], relay.address()).unwrap();
            keep_up(&relay, sent);
        }
        let Carried { packets, lost, dropped, .. } = relay.up();
        assert_eq!((packets + lost, dropped), (2_000, 0));
        assert!((140..260).contains(&lost), "{lost}");
    }
}
