//! A JSON-RPC server that answers from a script, and what the client makes of its moods.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::{RpcChain, Server};
use crate::{ChainClient, ChainError, TransactionError, VersionedTransaction};

/// What the server says to each request, in turn; after the last it closes connections without a word.
#[derive(Default)]
pub(super) struct Script {
    answers: VecDeque<Answer>,
}

enum Answer {
    /// Status line and headers but the length, then the body.
    Http(String, String),
    Silence,
}

/// The bodies of the requests, and the heads they came with.
type Requests = Arc<Mutex<Vec<(String, Value)>>>;

impl Script {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn result(self, result: Value) -> Self {
        self.http("200 OK", &json!({ "jsonrpc": "2.0", "id": 1, "result": result }).to_string())
    }

    fn error(self, error: Value) -> Self {
        self.http("200 OK", &json!({ "jsonrpc": "2.0", "id": 1, "error": error }).to_string())
    }

    fn http(mut self, head: &str, body: &str) -> Self {
        self.answers.push_back(Answer::Http(head.to_owned(), body.to_owned()));
        self
    }

    fn silence(mut self) -> Self {
        self.answers.push_back(Answer::Silence);
        self
    }

    pub(super) async fn serve(self) -> RpcChain {
        self.serve_recording().await.0
    }

    async fn serve_recording(self) -> (RpcChain, Requests) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://user:word@{}/secret-key", listener.local_addr().unwrap());
        let (answers, requests) = (Arc::new(Mutex::new(self.answers)), Requests::default());
        let seen = Arc::clone(&requests);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(converse(stream, Arc::clone(&answers), Arc::clone(&seen)));
            }
        });
        (RpcChain::new(&url), requests)
    }
}

async fn converse(mut stream: TcpStream, answers: Arc<Mutex<VecDeque<Answer>>>, seen: Requests) -> Option<()> {
    loop {
        let request = read_request(&mut stream).await?;
        seen.lock().unwrap().push(request);
        let answer = answers.lock().unwrap().pop_front();
        match answer? {
            Answer::Http(head, body) => {
                let text = format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                stream.write_all(text.as_bytes()).await.ok()?;
            }
            Answer::Silence => std::future::pending().await,
        }
    }
}

async fn read_request(stream: &mut TcpStream) -> Option<(String, Value)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    let mut body = vec![0; length.parse().unwrap()];
    stream.read_exact(&mut body).await.ok()?;
    Some((head, serde_json::from_slice(&body).unwrap()))
}

async fn genesis(script: Script) -> Result<[u8; 32], ChainError> {
    script.serve().await.genesis_hash().await
}

const HASH: &str = "11111111111111111111111111111111";

#[tokio::test]
async fn request_carries_method_parameters_and_the_addresses_credentials() {
    let (chain, requests) = Script::new().result(json!(HASH)).serve_recording().await;
    assert_eq!(chain.genesis_hash().await.unwrap(), [0; 32]);
    let (head, body) = requests.lock().unwrap().remove(0);
    assert!(head.starts_with("post /secret-key http/1.1"), "{head}");
    assert!(head.contains("authorization: basic dxnlcjp3b3jk"), "{head}");
    assert_eq!(body, json!({ "jsonrpc": "2.0", "id": 1, "method": "getGenesisHash", "params": [] }));
}

#[tokio::test]
async fn busy_server_is_asked_again_and_not_for_ever() {
    let busy = "429 Too Many Requests\r\nretry-after: 0";
    let twice = Script::new().http(busy, "").http(busy, "").result(json!(HASH));
    assert_eq!(genesis(twice).await.unwrap(), [0; 32]);
    let mut always = Script::new();
    for _ in 0..8 {
        always = always.http(busy, "");
    }
    let (chain, requests) = always.serve_recording().await;
    let error = chain.genesis_hash().await.unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("429"), "{error}");
    assert_eq!(requests.lock().unwrap().len(), 5);
}

#[tokio::test]
async fn server_trouble_passes_and_a_closed_door_does_not() {
    for head in ["500 Oh", "502 Bad Gateway", "503 Later"] {
        let error = genesis(Script::new().http(head, "<html>")).await.unwrap_err();
        assert!(matches!(error, ChainError::Unreachable(_)), "{error}");
    }
    for head in ["401 Who", "403 No", "404 Nothing", "301 There\r\nlocation: http://127.0.0.1:1/"] {
        let error = genesis(Script::new().http(head, "")).await.unwrap_err();
        assert!(matches!(error, ChainError::Rpc { .. }) && !error.is_retryable(), "{error}");
    }
}

#[tokio::test]
async fn errors_do_not_show_keys_in_the_address() {
    let closed = genesis(Script::new()).await.unwrap_err();
    let denied = genesis(Script::new().http("403 No", "")).await.unwrap_err();
    for error in [closed, denied] {
        let text = error.to_string();
        assert!(text.contains("http://127.0.0.1:"), "{text}");
        assert!(!text.contains("secret-key") && !text.contains("word"), "{text}");
    }
}

#[tokio::test]
async fn answer_that_is_too_long_or_never_comes_ends_the_call() {
    let long = Script::new().result(json!("x".repeat(2_000))).serve().await;
    let error = long.server.call::<Value>("getGenesisHash", json!([]), 1_000).await.unwrap_err();
    assert!(matches!(&error, ChainError::Malformed(why) if why.contains("1000 bytes")), "{error}");

    let silent = Script::new().silence().serve().await;
    let impatient = Server::new(silent.server.url(), Duration::from_millis(50));
    let error = impatient.call::<Value>("getGenesisHash", json!([]), 1_000).await.unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("within 50ms"), "{error}");
}

#[tokio::test]
async fn nonsense_is_malformed() {
    for body in ["", "{", "[]", "{}", r#"{"result":null}"#, r#"{"result":5}"#, r#"{"error":"no"}"#] {
        let error = genesis(Script::new().http("200 OK", body)).await.unwrap_err();
        assert!(matches!(error, ChainError::Malformed(_)), "{body}: {error}");
    }
}

#[tokio::test]
async fn refusals_are_told_from_the_servers_own_errors() {
    let send = async |error: Value| {
        Script::new().error(error).serve().await.send(&signed()).await.map_err(|error| (error.is_retryable(), error))
    };
    let preflight = |err: Value| json!({ "code": -32002, "message": "simulation failed", "data": { "err": err } });
    let (again, error) = send(preflight(json!("InsufficientFundsForFee"))).await.unwrap_err();
    assert!(matches!(error, ChainError::Refused(TransactionError::InsufficientFundsForFee)) && !again, "{error}");
    let (again, error) = send(preflight(json!("BlockhashNotFound"))).await.unwrap_err();
    assert!(matches!(error, ChainError::Refused(TransactionError::BlockhashNotFound)) && again, "{error}");
    let words = json!({ "code": -32603, "message": format!("it says: {}", TransactionError::BlockhashNotFound) });
    let (_, error) = send(words).await.unwrap_err();
    assert!(matches!(error, ChainError::Refused(TransactionError::BlockhashNotFound)), "{error}");
    // It has landed: what sending again is for.
    assert_eq!(send(preflight(json!("AlreadyProcessed"))).await.unwrap(), signed().signatures[0]);

    for (code, again) in [(-32005, true), (-32016, true), (-32602, false)] {
        let (retryable, error) = send(json!({ "code": code, "message": "m".repeat(5_000) })).await.unwrap_err();
        assert!(matches!(&error, ChainError::Rpc { message, .. } if message.len() == 1_000), "{error}");
        assert_eq!(retryable, again, "{code}");
    }
}

fn signed() -> VersionedTransaction {
    VersionedTransaction { signatures: vec![[7; 64].into()], ..VersionedTransaction::default() }
}
