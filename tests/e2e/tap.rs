//! A wire between a process and its Solana server that remembers what the process said.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::Value;

/// Passes bytes on, both ways, to a server that is spoken to in plain HTTP.
pub(crate) struct Tap {
    pub(crate) url: String,
    said: Arc<Mutex<Vec<u8>>>,
}

impl Tap {
    /// On the way to the server at `url`; none if its address is not `http://HOST:PORT`.
    pub(crate) fn before(url: &str) -> Option<Self> {
        let server = url.strip_prefix("http://")?.trim_end_matches('/').to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let here = listener.local_addr().expect("bound");
        let said = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&said);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(&server) else { continue };
                let (Ok(answers), Ok(asker)) = (server.try_clone(), client.try_clone()) else { continue };
                let heard = Arc::clone(&heard);
                std::thread::spawn(move || pass(client, server, |bytes| heard.lock().unwrap().extend(bytes)));
                std::thread::spawn(move || pass(answers, asker, |_| {}));
            }
        });
        Some(Self { url: format!("http://{here}"), said })
    }

    /// Every transaction that was sent through here, in base64, resends included.
    pub(crate) fn sent(&self) -> Vec<String> {
        let said = self.said.lock().unwrap();
        let said = String::from_utf8_lossy(&said);
        // Requests are one line of JSON each, after their heads.
        let requests = said.lines().filter_map(|line| {
            let body = line.get(line.find('{')?..)?;
            serde_json::Deserializer::from_str(body).into_iter::<Value>().next()?.ok()
        });
        let sends = requests.filter(|request| request["method"] == "sendTransaction");
        sends.filter_map(|request| request["params"][0].as_str().map(str::to_owned)).collect()
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, mut note: impl FnMut(&[u8])) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        note(&bytes[..count]);
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
}
