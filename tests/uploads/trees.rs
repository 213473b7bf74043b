//! Folders and names from one agent to another: published, named, fetched by name, changed, and never back.
//!
//! What could break: a file that is lost or changed on the way, a byte paid twice, a name that goes back to what it was.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use agent_client::{Agent, Approval, Approver, FetchError, NameError, Policy, TreeError, Wallet};
use aro_proto::naming::TargetKind;
use aro_proto::{Amount, NameAddress};
use async_trait::async_trait;

use crate::{FETCH, PUBLISH, Scene, nothing_stays_reserved, price, write};

/// Every file below a folder with its bytes.
fn files(folder: &Path) -> Vec<(String, Vec<u8>, bool)> {
    let mut found = Vec::new();
    for item in std::fs::read_dir(folder).unwrap() {
        let path = item.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            found.extend(files(&path).into_iter().map(|(inner, bytes, x)| (format!("{name}/{inner}"), bytes, x)));
        } else {
            let is_program = std::fs::metadata(&path).unwrap().permissions().mode() & 0o100 != 0;
            found.push((name, std::fs::read(&path).unwrap(), is_program));
        }
    }
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_is_published_named_fetched_by_name_and_changed() {
    let scene = Scene::new().await;
    let (publisher, reader) = (scene.agent("publisher").await, scene.agent("reader").await);
    let source = scene.home.path().join("site");
    std::fs::create_dir_all(source.join("films/old")).unwrap();
    for (name, len) in [("index.html", 1_000), ("films/a.mp4", 3 << 20), ("films/old/b", 70_000), ("empty", 0)] {
        write(&source.join(name), len);
    }
    // The same bytes once more, and a program.
    std::fs::copy(source.join("index.html"), source.join("films/copy.html")).unwrap();
    std::fs::write(source.join("run.sh"), "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(source.join("run.sh"), std::fs::Permissions::from_mode(0o755)).unwrap();

    let put = publisher.publish_tree(&scene.address(), &source).run().await.unwrap();
    assert_eq!((put.files, put.skipped.len()), (6, 0));
    assert_eq!(put.paid.get(), price(PUBLISH, usize::try_from(put.taken_bytes).unwrap()));
    nothing_stays_reserved(&publisher).await;
    let again = publisher.publish_tree(&scene.address(), &source).run().await.unwrap();
    assert_eq!((again.taken_bytes, again.paid, again.manifest), (0, Amount::ZERO, put.manifest));

    let name = "site".parse::<aro_proto::Name>().unwrap();
    let give = |target| publisher.publish_name(&scene.address(), name.clone(), target, TargetKind::Manifest).run();
    let first = give(put.manifest).await.unwrap();
    assert_eq!((first.sequence, give(put.manifest).await.unwrap()), (1, first.clone()), "the same again is the same");
    let address = NameAddress { publisher: put.publisher, name: name.clone() };
    let nodes = [scene.address()];
    let record = reader.resolve(&address, &nodes).await.unwrap();
    assert_eq!(record, first);
    let target = scene.home.path().join("copy");
    let manifest = scene.address().with_content(record.target);
    let got = reader.fetch_tree(&manifest).to_folder(&target).await.unwrap();
    assert_eq!(files(&target), files(&source));
    assert_eq!(got.paid.get(), price(FETCH, usize::try_from(got.verified_bytes).unwrap()));
    nothing_stays_reserved(&reader).await;

    // A new version: only what is new travels, both ways.
    let changed = write(&source.join("index.html"), 2_000);
    let put = publisher.publish_tree(&scene.address(), &source).run().await.unwrap();
    assert!(put.taken_bytes < 5_000, "{put:?}");
    assert_eq!(give(put.manifest).await.unwrap().sequence, 2);
    let record = reader.resolve(&address, &nodes).await.unwrap();
    let got = reader.fetch_tree(&scene.address().with_content(record.target)).to_folder(&target).await.unwrap();
    assert_eq!((record.sequence, got.kept_files), (2, 5));
    assert_eq!(std::fs::read(target.join("index.html")).unwrap(), changed);
    assert_eq!(files(&target), files(&source));

    // Another key's name is another name.
    let stranger = NameAddress { publisher: aro_proto::SecretKey::from_bytes(&[1; 32]).agent_id(), name };
    assert!(matches!(reader.resolve(&stranger, &nodes).await, Err(NameError::NotFound { .. })));
    publisher.close().await;
    reader.close().await;
    scene.node.running.shutdown().await.unwrap();
}

/// Somebody who is asked, and what about.
#[derive(Default)]
struct Clerk {
    says_yes: AtomicBool,
    asked: Mutex<Vec<u64>>,
}

#[async_trait]
impl Approver for Clerk {
    async fn approve(&self, approval: &Approval) -> bool {
        self.asked.lock().unwrap().push(approval.amount.get());
        self.says_yes.load(Ordering::Relaxed)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_is_asked_about_once_before_anything_of_it_is_sent() {
    let scene = Scene::new().await;
    scene.agent("publisher").await.close().await;
    let clerk = Arc::new(Clerk::default());
    let policy = Policy { ask_above: Some(Amount::new(price(PUBLISH, 2 << 20))), ..Policy::default() };
    let wallet = Wallet::open(&scene.home.path().join("publisher")).unwrap();
    let builder = Agent::builder().chain(scene.world.chain.clone()).wallet(wallet).program(scene.world.program.id);
    let publisher = builder.policy(policy).approver(Arc::clone(&clerk) as Arc<dyn Approver>).build().await.unwrap();
    let source = scene.home.path().join("site");
    std::fs::create_dir_all(&source).unwrap();
    for number in 0_u8..4 {
        // Each by itself is below the threshold.
        std::fs::write(source.join(format!("{number}.html")), vec![number; 1 << 20]).unwrap();
    }
    let publish = || publisher.publish_tree(&scene.address(), &source).run();
    let refused = publish().await;
    assert!(matches!(&refused, Err(TreeError::Fetch(FetchError::NotApproved(_)))), "{refused:?}");
    assert_eq!(publisher.channels().await.unwrap()[0].signed, Amount::ZERO);

    clerk.says_yes.store(true, Ordering::Relaxed);
    let put = publish().await.unwrap();
    // The manifest is known to the byte before anything is read.
    let whole = price(PUBLISH, usize::try_from(put.taken_bytes).unwrap());
    assert_eq!((put.paid.get(), clerk.asked.lock().unwrap().clone()), (whole, vec![whole, whole]));
    publisher.close().await;
    scene.node.running.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_costs_no_more_than_allowed_and_what_cannot_be_published_is_said_first() {
    let scene = Scene::new().await;
    let publisher = scene.agent("publisher").await;
    let source = scene.home.path().join("site");
    std::fs::create_dir_all(&source).unwrap();
    for number in 0_u8..8 {
        // All differ.
        std::fs::write(source.join(number.to_string()), vec![number; 1 << 20]).unwrap();
    }
    let publish = || publisher.publish_tree(&scene.address(), &source);
    let allowed = Amount::new(price(PUBLISH, 3 << 20));
    let dear = publish().max_price(allowed).run().await;
    assert!(matches!(dear, Err(TreeError::PriceTooHigh { .. })), "{dear:?}");
    nothing_stays_reserved(&publisher).await;
    let paid = publisher.channels().await.unwrap()[0].signed;
    assert!(paid <= allowed, "{paid}");
    std::os::unix::fs::symlink("/etc/passwd", source.join("link")).unwrap();
    let linked = publish().run().await;
    assert!(matches!(&linked, Err(TreeError::NotAFile { path }) if path.ends_with("link")), "{linked:?}");
    assert_eq!(publisher.channels().await.unwrap()[0].signed, paid, "before anything is sent");
    let put = publish().skip_special(true).run().await.unwrap();
    assert_eq!((put.files, put.skipped.len()), (8, 1));
    publisher.close().await;
    scene.node.running.shutdown().await.unwrap();
}
