//! The page that monitoring scrapes: one question, one answer, and the connection is over.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::Metrics;
use crate::stop::Stop;

/// Serves `GET /metrics` over HTTP/1.1. It has no rights and no secrets, but bind it where only monitoring can reach:
/// the page tells how much money waits.
pub struct MetricsServer {
    listener: TcpListener,
    metrics: Arc<Metrics>,
}

impl MetricsServer {
    /// Binds the page.
    ///
    /// # Errors
    /// The address is taken or not of this machine.
    pub async fn bind(listen: SocketAddr, metrics: Arc<Metrics>) -> io::Result<Self> {
        Ok(Self { listener: TcpListener::bind(listen).await?, metrics })
    }

    /// Where it is.
    ///
    /// # Errors
    /// The system does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until it is told to stop.
    pub(crate) async fn run(self, mut stop: Stop) {
        let places = Arc::new(Semaphore::new(MAX_READERS));
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = stop.told() => return,
            };
            let Ok((stream, _)) = accepted else {
                // Out of file handles, most likely: the next moment may be better.
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
            let metrics = Arc::clone(&self.metrics);
            tokio::spawn(async move {
                let _ = timeout(PATIENCE, answer(stream, &metrics)).await;
                drop(place);
            });
        }
    }
}

async fn answer(mut stream: TcpStream, metrics: &Metrics) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() >= MAX_HEAD || stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let (status, body) = match head.split(|byte| *byte == b' ').take(2).collect::<Vec<_>>()[..] {
        [b"GET", b"/metrics"] => ("200 OK", metrics.to_text()),
        [b"GET", _] => ("404 Not Found", "the page is /metrics\n".to_owned()),
        _ => ("405 Method Not Allowed", "only GET\n".to_owned()),
    };
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {TEXT_FORMAT}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(answer.as_bytes()).await?;
    stream.shutdown().await
}

/// What scrapers look for.
const TEXT_FORMAT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Bytes of a question, at most.
const MAX_HEAD: usize = 8 << 10;
/// Questions at once.
const MAX_READERS: usize = 8;
/// How long a question with its answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// After a connection that could not be taken.
const PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    async fn ask(address: SocketAddr, question: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(question.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn page_is_served_and_everything_else_refused() {
        let metrics = Arc::new(Metrics::new());
        metrics.accepted(7);
        let server = MetricsServer::bind((Ipv4Addr::LOCALHOST, 0).into(), metrics).await.unwrap();
        let address = server.local_addr().unwrap();
        let (stop, stopped) = Stop::new();
        let task = tokio::spawn(server.run(stopped));
        let page = ask(address, "GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n").await;
        let (head, body) = page.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        assert!(head.contains(&format!("content-length: {}", body.len())), "{head}");
        assert!(body.contains("aro_settle_vouchers_accepted_total 7\n") && body.ends_with("# EOF\n"), "{body}");
        assert!(ask(address, "GET / HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 404"));
        assert!(ask(address, "POST /metrics HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 405"));
        stop.send_replace(true);
        task.await.unwrap();
    }

    #[tokio::test]
    async fn endless_question_is_cut_off() {
        let server = MetricsServer::bind((Ipv4Addr::LOCALHOST, 0).into(), Arc::new(Metrics::new())).await.unwrap();
        let address = server.local_addr().unwrap();
        let (_stop, stopped) = Stop::new();
        tokio::spawn(server.run(stopped));
        let mut stream = TcpStream::connect(address).await.unwrap();
        let long = [b'x'; 2 * MAX_HEAD];
        let mut answer = Vec::new();
        // The rest may not even be taken any more.
        let _ = stream.write_all(&long).await;
        let _ = stream.read_to_end(&mut answer).await;
        assert!(answer.is_empty());
    }
}
