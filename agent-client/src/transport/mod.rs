//! The way to nodes: sockets, one connection for each node, frames, and the control stream beside the requests.

mod connection;
mod control;
mod endpoint;
mod framed;
mod quiet;
mod receipts;

pub(crate) use aro_proto::wire::Frame;
pub(crate) use connection::{Exchange, Session, SessionSetup, Upload};
pub(crate) use control::{BindStatus, Control, Status};
pub(crate) use endpoint::Endpoints;
pub(crate) use framed::{FrameError, read_any_frame};
