//! Surfpool in this process: a Solana JSON-RPC server on loopback, offline, that makes a block every so often.

use std::{
    net::TcpListener,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow, bail};
use crossbeam_channel::{Receiver, Sender};
use settlement_chain::Address;
use surfpool_core::surfnet::{
    locker::SurfnetSvmLocker,
    svm::{SurfnetSvm, SurfnetSvmConfig},
};
use surfpool_types::{
    BlockProductionMode, RpcConfig, SimnetCommand, SimnetConfig, SimnetEvent, SurfpoolConfig, SvmFeatureConfig,
};

/// How the server is to run.
pub struct SurfnetOptions {
    /// Port of the JSON-RPC server; 0 takes any free one.
    pub rpc_port: u16,
    /// Port of the WebSocket server; 0 takes any free one.
    pub ws_port: u16,
    /// Milliseconds between two blocks.
    pub slot_time_ms: u64,
    /// Addresses that get SOL at the start.
    pub funded: Vec<Address>,
    /// Lamports for each of them.
    pub funded_lamports: u64,
}

/// A running server. Stops when asked to; a dropped one runs on until the process ends.
pub struct Surfnet {
    rpc_port: u16,
    ws_port: u16,
    commands: Sender<SimnetCommand>,
    /// Yields one item for each server that has shut down.
    shutdowns: Receiver<()>,
}

impl Surfnet {
    /// Starts the server and returns when it answers requests.
    pub fn start(options: &SurfnetOptions) -> anyhow::Result<Self> {
        let chosen_by_us = options.rpc_port == 0 || options.ws_port == 0;
        let mut attempt = 1;
        loop {
            match Self::start_once(options) {
                // Another process took the port between our looking and surfpool's binding.
                Err(_) if chosen_by_us && attempt < PORT_ATTEMPTS => attempt += 1,
                other => return other,
            }
        }
    }

    /// Where the JSON-RPC server listens.
    pub fn rpc_url(&self) -> String {
        format!("http://{HOST}:{}", self.rpc_port)
    }

    /// Where the WebSocket server listens.
    pub fn ws_url(&self) -> String {
        format!("ws://{HOST}:{}", self.ws_port)
    }

    /// Closes both servers.
    pub fn stop(&self) -> anyhow::Result<()> {
        self.commands.send(SimnetCommand::Terminate(None)).map_err(|_| anyhow!("the RPC server is gone already"))?;
        let deadline = Instant::now() + STOP_PATIENCE;
        for _ in 0..2 {
            self.shutdowns
                .recv_deadline(deadline)
                .map_err(|_| anyhow!("the RPC server did not stop within {STOP_PATIENCE:?}"))?;
        }
        Ok(())
    }

    fn start_once(options: &SurfnetOptions) -> anyhow::Result<Self> {
        let (rpc_port, ws_port) = ports(options.rpc_port, options.ws_port)?;
        let config = config(options, rpc_port, ws_port);
        let simnet = config.simnets.first().context("one simnet is configured")?;
        let svm_config = SurfnetSvmConfig {
            surfnet_id: simnet.surfnet_id.clone(),
            slot_time: simnet.slot_time,
            instruction_profiling_enabled: simnet.instruction_profiling_enabled,
            max_profiles: simnet.max_profiles,
            log_bytes_limit: simnet.log_bytes_limit,
            feature_config: SvmFeatureConfig::default(),
            skip_blockhash_check: simnet.skip_blockhash_check,
        };
        let (svm, events, geyser_events) =
            SurfnetSvm::new(svm_config).map_err(|error| anyhow!("the virtual machine does not start: {error}"))?;
        let locker = SurfnetSvmLocker::new(svm);
        let (commands, commands_in) = crossbeam_channel::unbounded();
        let (ended, end) = crossbeam_channel::bounded(1);
        let loop_commands = commands.clone();
        thread::Builder::new().name("surfnet".into()).spawn(move || {
            let result = serve(locker, config, loop_commands, commands_in, geyser_events);
            // Nobody listens any more once the start has succeeded.
            let _ = ended.send(result);
        })?;
        wait_until_ready(&events, &end)?;
        let (shutdown, shutdowns) = crossbeam_channel::bounded(2);
        thread::Builder::new().name("surfnet-events".into()).spawn(move || drain(&events, &shutdown))?;
        Ok(Self { rpc_port, ws_port, commands, shutdowns })
    }
}

fn config(options: &SurfnetOptions, rpc_port: u16, ws_port: u16) -> SurfpoolConfig {
    SurfpoolConfig {
        simnets: vec![SimnetConfig {
            offline_mode: true,
            remote_rpc_url: None,
            slot_time: options.slot_time_ms,
            block_production_mode: BlockProductionMode::Clock,
            airdrop_addresses: options.funded.iter().map(|address| address.to_bytes().into()).collect(),
            airdrop_token_amount: options.funded_lamports,
            // Profiles of every transaction are kept in memory, and nobody reads them here.
            instruction_profiling_enabled: false,
            ..SimnetConfig::default()
        }],
        rpc: RpcConfig { bind_host: HOST.to_owned(), bind_port: rpc_port, ws_port, ..RpcConfig::default() },
        ..SurfpoolConfig::default()
    }
}

/// Runs the server on this thread until it is terminated.
fn serve(
    locker: SurfnetSvmLocker,
    config: SurfpoolConfig,
    commands: Sender<SimnetCommand>,
    commands_in: Receiver<SimnetCommand>,
    geyser_events: Receiver<surfpool_core::surfnet::GeyserEvent>,
) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime
        .block_on(surfpool_core::runloops::start_local_surfnet_runloop(
            locker,
            config,
            commands,
            commands_in,
            geyser_events,
        ))
        .map_err(|error| anyhow!("{error}"))
}

fn wait_until_ready(events: &Receiver<SimnetEvent>, end: &Receiver<anyhow::Result<()>>) -> anyhow::Result<()> {
    loop {
        crossbeam_channel::select! {
            recv(events) -> event => match event {
                Ok(SimnetEvent::CoreStarted(_)) => return Ok(()),
                Ok(SimnetEvent::Aborted(why)) => bail!("the RPC server gave up: {why}"),
                Ok(_) => {}
                Err(_) => bail!("the RPC server ended while starting"),
            },
            recv(end) -> result => {
                result.unwrap_or(Ok(())).context("the RPC server does not start")?;
                bail!("the RPC server ended while starting");
            }
        }
    }
}

/// Takes the events that surfpool's channel would otherwise pile up for ever.
fn drain(events: &Receiver<SimnetEvent>, shutdown: &Sender<()>) {
    for event in events {
        match event {
            SimnetEvent::Shutdown => {
                // Full only if surfpool counts more servers than it has.
                let _ = shutdown.try_send(());
            }
            SimnetEvent::ErrorLog(_, message) => warn(&message),
            _ => {}
        }
    }
}

#[expect(clippy::print_stderr, reason = "the server's errors go where this command's own errors go")]
fn warn(message: &str) {
    eprintln!("aro-devnet: surfpool: {message}");
}

/// Replaces zeros by free ports. Both listeners are open at once, so that the two differ.
fn ports(rpc_port: u16, ws_port: u16) -> anyhow::Result<(u16, u16)> {
    let rpc = TcpListener::bind((HOST, rpc_port)).with_context(|| format!("port {rpc_port} on {HOST}"))?;
    let ws = TcpListener::bind((HOST, ws_port)).with_context(|| format!("port {ws_port} on {HOST}"))?;
    Ok((rpc.local_addr()?.port(), ws.local_addr()?.port()))
}

const HOST: &str = "127.0.0.1";

/// Starts that may lose their port to another process before we give up.
const PORT_ATTEMPTS: u32 = 5;

/// Longest wait for the servers to close.
const STOP_PATIENCE: Duration = Duration::from_secs(10);
