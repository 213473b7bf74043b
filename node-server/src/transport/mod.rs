//! QUIC: sockets, frames, connections and their control streams.

mod acknowledged;
mod connection;
mod control;
mod endpoint;
mod framed;
mod receipts;

pub(crate) use acknowledged::Acknowledged;
pub(crate) use connection::{Fault, OpenRequest, Session, run_accepting};
pub(crate) use endpoint::{ServerConfigs, client_endpoint, server_endpoints};
pub(crate) use framed::{FrameError, FrameReader, SendFrameError, send_frame, send_frame_within};
