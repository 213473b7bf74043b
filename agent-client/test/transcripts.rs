//! The `aro` command by transcripts of a terminal: what a user types, what comes back, and the exit code. Set
//! `TRYCMD=overwrite` to write them anew.

#[test]
fn transcripts_come_out_as_written() {
    let home = tempfile::tempdir().expect("a temporary folder");
    trycmd::TestCases::new()
        .env("ARO_HOME", home.path().join("wallet").to_string_lossy())
        // A port that refuses at once: no transcript may depend on a chain that happens to run here.
        .env("ARO_RPC_URL", "http://127.0.0.1:1")
        .env("RUST_LOG", "off")
        .case("test/transcripts/*.trycmd");
}
