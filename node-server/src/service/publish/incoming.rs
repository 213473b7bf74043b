//! An upload's bytes, as QUIC hands them over: many packets at once, so that the connection is locked once for all of them.

use std::future::pending;

use aro_proto::RefusalCode;
use bytes::{Buf, Bytes};
use quinn::{Connection, ReadError, RecvStream};

use super::{Ending, refused};

/// The way in of one upload.
pub(super) struct Incoming<'a> {
    connection: &'a Connection,
    receive: &'a mut RecvStream,
    /// Those before `next` are empty.
    chunks: [Bytes; CHUNKS],
    next: usize,
    len: usize,
}

impl<'a> Incoming<'a> {
    pub(super) fn new(connection: &'a Connection, receive: &'a mut RecvStream) -> Self {
        Self { connection, receive, chunks: [const { Bytes::new() }; CHUNKS], next: 0, len: 0 }
    }

    /// The bytes that come next, as far as they lie side by side; none before [`more`](Self::more).
    pub(super) fn bytes(&self) -> &[u8] {
        self.chunks.get(self.next).map_or(&[], |chunk| &chunk[..])
    }

    /// The next `len` of them have been taken.
    pub(super) fn taken(&mut self, len: usize) {
        if let Some(chunk) = self.chunks.get_mut(self.next) {
            chunk.advance(len);
        }
    }

    /// Waits until there are bytes; false at the end of the stream. May be cancelled.
    pub(super) async fn more(&mut self) -> Result<bool, Ending> {
        while self.bytes().is_empty() {
            if self.next + 1 < self.len {
                self.next += 1;
                continue;
            }
            // Given back all at once: they share a count with packets that another core is taking in.
            self.chunks[..self.len].fill(Bytes::new());
            (self.next, self.len) = (0, 0);
            match self.receive.read_chunks(&mut self.chunks).await {
                Ok(Some(len)) => self.len = len,
                Ok(None) => return Ok(false),
                Err(ReadError::Reset(_) | ReadError::ConnectionLost(_)) => return Err(Ending::Gone),
                Err(error) => return Err(refused(RefusalCode::Internal, error.to_string())),
            }
        }
        Ok(true)
    }

    /// Waits until the agent has reset the stream, or the connection is gone.
    pub(super) async fn gone(&mut self) {
        let reset = async {
            // All of it has come, and can be reset no more.
            if let Ok(None) = self.receive.received_reset().await {
                pending::<()>().await;
            }
        };
        tokio::select! {
            () = reset => {}
            _ = self.connection.closed() => {}
        }
    }
}

/// Packets taken from the connection at once.
const CHUNKS: usize = 64;
