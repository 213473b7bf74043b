//! What the `aro` command asks a chain before it fetches, over JSON-RPC: so that the command itself runs against a chain in
//! this process. Reads only.

use std::io;

use anyhow::{Context, Result, bail};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Value, json};
use settlement_chain::{Account, Address, ChainClient, EmbeddedChain, Hash};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A server on a free port of the loopback; stops when dropped.
#[derive(Debug)]
pub struct RpcServer {
    /// Where it listens.
    pub url: String,
    task: JoinHandle<()>,
}

impl RpcServer {
    /// Starts in front of a chain.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start(chain: EmbeddedChain) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A client that leaves, or speaks something else, ends its own conversation.
                tokio::spawn(converse(stream, chain.clone()));
            }
        });
        Ok(Self { url, task })
    }
}

impl Drop for RpcServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Answers one request after the other until the client leaves.
async fn converse(mut stream: TcpStream, chain: EmbeddedChain) -> Result<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let head = String::from_utf8(head)?.to_ascii_lowercase();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).context("no length")?;
        let mut body = vec![0; length.parse()?];
        stream.read_exact(&mut body).await?;
        let request: Value = serde_json::from_slice(&body)?;
        let result = call(&chain, request["method"].as_str().unwrap_or_default(), &request["params"]).await?;
        let text = json!({ "jsonrpc": "2.0", "id": request["id"], "result": result }).to_string();
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", text.len());
        stream.write_all(format!("{head}{text}").as_bytes()).await?;
    }
}

async fn call(chain: &EmbeddedChain, method: &str, params: &Value) -> Result<Value> {
    match method {
        "getGenesisHash" => Ok(json!(Hash::new_from_array(chain.genesis_hash().await?).to_string())),
        "getMultipleAccounts" => {
            let asked = params[0].as_array().context("no addresses")?;
            let addresses = asked.iter().map(|word| Ok(word.as_str().context("no address")?.parse::<Address>()?));
            let accounts = chain.accounts(&addresses.collect::<Result<Vec<_>>>()?).await?;
            let accounts: Vec<Value> = accounts.iter().map(|account| account.as_ref().map(shown).into()).collect();
            Ok(json!({ "context": { "slot": 1 }, "value": accounts }))
        }
        _ => bail!("{method} is not known here"),
    }
}

fn shown(account: &Account) -> Value {
    json!({
        "lamports": account.lamports,
        "owner": account.owner.to_string(),
        "data": [BASE64.encode(&account.data), "base64"],
        "executable": false,
        "rentEpoch": 0,
    })
}
