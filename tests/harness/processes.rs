//! The product's own binaries as processes: started, listened to, stopped with a signal, never waited for blindly.

#![allow(clippy::panic, reason = "a test that cannot start its processes fails")]

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use serde_json::Value;

/// A process that serves until it is stopped. Killed if dropped.
#[derive(Debug)]
pub struct Server {
    name: String,
    process: u32,
    exited: Receiver<ExitStatus>,
    /// What it printed when it was ready.
    pub ready: Value,
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    /// Exit code.
    pub code: i32,
    /// The JSON object in the last line of its output, or `Null`.
    pub json: Value,
    /// What it said to people.
    pub stderr: String,
}

impl Server {
    /// Starts a binary of this workspace and waits for its line of JSON.
    ///
    /// # Panics
    /// It does not start, ends, or is not ready within [`READY_WITHIN`].
    #[must_use]
    pub fn start<S: AsRef<OsStr>>(name: &str, args: &[S]) -> Self {
        let mut child = Command::new(binary(name))
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        let stdout = child.stdout.take().expect("stdout is piped");
        let (line, first_line) = mpsc::channel();
        // Reads on after the first line, so that the process never blocks on a full pipe.
        std::thread::spawn(move || {
            let mut lines = BufReader::new(stdout).lines();
            let json = lines.by_ref().map_while(Result::ok).find_map(|line| serde_json::from_str::<Value>(&line).ok());
            let _ = line.send(json);
            lines.for_each(drop);
        });
        let process = child.id();
        let (status, exited) = mpsc::channel();
        std::thread::spawn(move || status.send(child.wait().expect("a child can be waited for")));
        let mut server = Self { name: name.to_owned(), process, exited, ready: Value::Null };
        server.ready = match first_line.recv_timeout(READY_WITHIN) {
            Ok(Some(ready)) => ready,
            Ok(None) => panic!("{name} ended before it was ready: {:?}", server.exited.recv_timeout(STOPPED_WITHIN)),
            Err(_) => panic!("{name} is not ready after {READY_WITHIN:?}"),
        };
        server
    }

    /// A text of the ready line.
    ///
    /// # Panics
    /// The line has no such text.
    #[must_use]
    pub fn ready_text(&self, key: &str) -> String {
        text(&self.ready, key)
    }

    /// Asks it to stop (SIGTERM) and waits for a clean exit.
    ///
    /// # Panics
    /// It does not exit within [`STOPPED_WITHIN`], or not with code 0.
    pub fn stop(self) {
        self.stop_with("TERM");
    }

    /// Asks it to stop with a signal by name and waits for a clean exit.
    ///
    /// # Panics
    /// As [`stop`](Self::stop).
    pub fn stop_with(self, signal: &str) {
        send_signal(signal, self.process);
        let status = self.exited.recv_timeout(STOPPED_WITHIN);
        let status = status.unwrap_or_else(|_| panic!("{} has not stopped after {STOPPED_WITHIN:?}", self.name));
        assert!(status.success(), "{} did not stop cleanly on SIG{signal}: {status}", self.name);
    }

    /// Kills it without warning (SIGKILL), as a crash would, and waits until it is gone.
    pub fn kill(self) {
        send_signal("KILL", self.process);
        let _ = self.exited.recv_timeout(STOPPED_WITHIN);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.exited.try_recv() == Err(mpsc::TryRecvError::Empty) {
            send_signal("KILL", self.process);
        }
    }
}

/// Runs a binary of this workspace to its end.
///
/// # Panics
/// It does not start, or does not end within [`ENDED_WITHIN`].
pub fn run<S: AsRef<OsStr>>(name: &str, args: &[S]) -> Ended {
    let mut child = Command::new(binary(name))
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
    let id = child.id();
    let (sender, receiver) = mpsc::channel();
    let mut stdout = child.stdout.take().expect("stdout is piped");
    let mut stderr = child.stderr.take().expect("stderr is piped");
    std::thread::spawn(move || {
        let errors = std::thread::spawn(move || read_all(&mut stderr));
        let output = read_all(&mut stdout);
        let status = child.wait().expect("a child can be waited for");
        let _ = sender.send(Output { status, stdout: output, stderr: errors.join().unwrap_or_default() });
    });
    let output = receiver.recv_timeout(ENDED_WITHIN).unwrap_or_else(|_| {
        send_signal("KILL", id);
        panic!("{name} has not ended after {ENDED_WITHIN:?}")
    });
    Ended::from(output)
}

/// The `aro` command on the wallet of a folder and the chain at a URL. It speaks JSON, into pipes, and hears neither a
/// terminal nor what the caller's environment says.
#[must_use]
pub fn aro(rpc_url: &str, home: &Path) -> Command {
    let mut command = Command::new(binary("aro"));
    for name in ["ARO_HOME", "ARO_RPC_URL", "ARO_PROGRAM_ID", "RUST_LOG"] {
        command.env_remove(name);
    }
    command.args(["--rpc", rpc_url, "--json", "--home"]).arg(home);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Waits for the end of a child whose output is piped, off the runtime that a test's nodes run on.
///
/// # Panics
/// It does not end within [`ENDED_WITHIN`].
pub async fn ended(child: Child) -> Ended {
    ended_within(ENDED_WITHIN, child).await
}

/// The same where it may take another time.
///
/// # Panics
/// It takes longer.
pub async fn ended_within(limit: Duration, child: Child) -> Ended {
    let id = child.id();
    let waiting = tokio::task::spawn_blocking(move || child.wait_with_output().expect("a child can be waited for"));
    let Ok(output) = tokio::time::timeout(limit, waiting).await else {
        send_signal("KILL", id);
        panic!("a command has not ended after {limit:?}")
    };
    Ended::from(output.expect("waiting does not fail"))
}

/// Kills a child without warning (SIGKILL), as a crash would, and waits until it is gone. Its code is -1, unless it had ended
/// before.
pub async fn killed(child: Child) -> Ended {
    send_signal("KILL", child.id());
    ended(child).await
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let last = output.stdout.rsplit(|byte| *byte == b'\n').find(|line| !line.is_empty()).unwrap_or_default();
        Self {
            code: output.status.code().unwrap_or(-1),
            json: serde_json::from_slice(last).unwrap_or(Value::Null),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Runs a binary that must end well, and returns its JSON.
///
/// # Panics
/// It fails.
pub fn run_ok<S: AsRef<OsStr> + std::fmt::Debug>(name: &str, args: &[S]) -> Value {
    let ended = run(name, args);
    assert_eq!(ended.code, 0, "{name} {args:?}\n{}\n{}", ended.json, ended.stderr);
    ended.json
}

/// A text field of a JSON object.
///
/// # Panics
/// There is no such field.
#[must_use]
pub fn text(json: &Value, key: &str) -> String {
    json[key].as_str().unwrap_or_else(|| panic!("no text `{key}` in {json}")).to_owned()
}

/// A number of a JSON object.
///
/// # Panics
/// There is no such field.
#[must_use]
pub fn number(json: &Value, key: &str) -> u64 {
    json[key].as_u64().unwrap_or_else(|| panic!("no number `{key}` in {json}"))
}

/// Where cargo put a binary of this workspace: beside the test, or the binary, that runs now.
///
/// # Panics
/// It is not built.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    let this = std::env::current_exe().expect("a process knows its own path");
    let folder = this.parent().expect("target/<profile>, or target/<profile>/deps");
    let folder = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
    let path = folder.join(name);
    assert!(
        path.exists(),
        "{} is not built: run `cargo build --workspace --bins`, or test with --workspace",
        path.display()
    );
    path
}

/// Sends a signal by name to a process.
pub fn send_signal(signal: &str, process: u32) {
    let _ = Command::new("kill").args([format!("-{signal}"), process.to_string()]).status();
}

fn read_all(from: &mut impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = from.read_to_end(&mut bytes);
    bytes
}

/// Loaded machines start slowly; a process that works is ready long before.
const READY_WITHIN: Duration = Duration::from_secs(90);
/// Time for open requests, last vouchers and the last handoff.
const STOPPED_WITHIN: Duration = Duration::from_secs(60);
/// Time for a command that talks to chain and node.
const ENDED_WITHIN: Duration = Duration::from_secs(120);
