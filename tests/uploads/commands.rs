//! The `aro` command as a publisher: a pipe that broke off goes on when it is piped again, and a name that was given is taken
//! back.

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use aro_proto::{ByteCount, ContentId};
use aro_tests::processes::{Ended, aro, ended, killed};
use aro_tests::rpc::RpcServer;

use crate::{MIB, PUBLISH, Scene, write};

impl Scene {
    /// `aro` on the wallet of this name.
    fn aro(&self, rpc: &RpcServer, wallet: &str, arguments: &[&str]) -> Command {
        let mut command = aro(&rpc.url, &self.home.path().join(wallet));
        command.args(arguments).stdin(Stdio::piped());
        command
    }
}

/// Starts a command and gives it these bytes, as far as it takes them.
fn piped(mut command: Command, bytes: &[u8]) -> Child {
    let mut child = command.spawn().unwrap();
    let (mut stdin, bytes) = (child.stdin.take().unwrap(), bytes.to_vec());
    std::thread::spawn(move || stdin.write_all(&bytes));
    child
}

// r[verify bind.replace]
#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_whose_command_was_killed_goes_on_and_its_name_can_be_withdrawn() {
    let scene = Scene::new().await;
    let agent = scene.agent("publisher").await;
    let channel = agent.channels().await.unwrap()[0].channel;
    agent.close().await;
    drop(agent);
    let rpc = RpcServer::start((*scene.world.chain).clone()).await.unwrap();
    let bytes = write(&scene.home.path().join("film"), 32 * MIB);
    let place = scene.address().to_string();
    let put = ["put", "-", &place, "--name", "film"];
    let price = |bytes: u64| PUBLISH.price(ByteCount::new(bytes)).unwrap().get();

    let child = piped(scene.aro(&rpc, "publisher", &put), &bytes);
    let deadline = Instant::now() + PATIENCE;
    let paid = async || scene.node.running.status().await.channel(channel).unwrap().watermark.get();
    while paid().await < price(3 << 20) {
        assert!(Instant::now() < deadline, "nothing is paid");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let Ended { code, json, stderr } = killed(child).await;
    assert_eq!(code, -1, "killed too late: {json} {stderr}");
    let before = paid().await;

    let Ended { code, json, stderr } = ended(piped(scene.aro(&rpc, "publisher", &put), &bytes)).await;
    assert_eq!(code, 0, "{json} {stderr}");
    assert_eq!(json["content"], ContentId::of(&bytes).to_string(), "{json}");
    let taken = json["taken_bytes"].as_u64().unwrap();
    assert!(price(taken) + before <= price(bytes.len() as u64) + 1, "{before} paid, and {json}");
    assert!(paid().await <= price(bytes.len() as u64) + 1, "a byte is paid twice: {}", paid().await);

    let name = json["name"].as_str().unwrap().to_owned();
    let out = scene.home.path().join("out").to_string_lossy().into_owned();
    let Ended { code, json, stderr } =
        ended(piped(scene.aro(&rpc, "publisher", &["name", "withdraw", "film", &place]), b"")).await;
    assert_eq!((code, &json["sequence"], &json["name"]), (0, &2.into(), &name.clone().into()), "{json} {stderr}");
    let get = ["get", &name, "--from", &place, "-o", &out];
    let Ended { code, json, stderr } = ended(piped(scene.aro(&rpc, "publisher", &get), b"")).await;
    assert_eq!((code, &json["error"]["code"]), (3, &"NameWithdrawn".into()), "{json} {stderr}");
    scene.node.running.shutdown().await.unwrap();
}

/// Longer than a command of this size takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
