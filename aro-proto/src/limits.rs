//! Every bound that a peer could push against, with its unit and its reason.

/// Application protocol of TLS: the major version of the protocol.
pub const ALPN: &[u8] = b"aro/1";
/// Minor version spoken here; a peer's larger one only adds optional fields.
pub const MINOR_VERSION: u16 = 0;
/// Label of the TLS exporter that binds signatures to a connection.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-aro/1";
/// Bytes of exporter output: 256 bits, so that no two connections share one.
pub const EXPORTER_LEN: usize = 32;

/// Bytes of a frame's body: nothing that a peer announces makes us hold more than this at once.
pub const MAX_FRAME: usize = 64 * 1024;
/// Optional fields of one message: more than any minor version will add.
pub const MAX_EXTENSIONS: usize = 32;
/// Bytes of the text in a refusal: one sentence for people.
pub const MAX_REASON: usize = 256;
/// Contents asked for under one signature: 72 bytes or more each, so the frame stays under its bound.
pub const MAX_FETCH_ITEMS: usize = 256;
/// Byte ranges of one content in one request.
pub const MAX_RANGES: usize = 256;
/// Vouchers in one handoff to an operator: 112 bytes each, so the frame stays under its bound.
pub const MAX_HANDOFF: usize = 256;
/// Unit kinds of one tariff.
pub const MAX_TARIFF_KINDS: usize = 16;

/// Bytes of one content: 16 TiB. Keeps every offset and price product far from overflow.
pub const MAX_CONTENT_SIZE: u64 = 1 << 44;

/// Bytes after which the agent owes the next voucher: 1 MiB. Smaller costs signatures, larger costs trust.
pub const QUANTUM_BYTES: u64 = 1 << 20;
/// Largest credit window in bytes: 64 MiB, several round trips of a fast path.
pub const MAX_WINDOW_BYTES: u64 = 64 << 20;

/// Request streams that an agent may have open at once on a connection.
pub const MAX_REQUEST_STREAMS: u32 = 256;
/// Receive window of one stream in bytes: 4 MiB; above it reordering can exceed quinn's gap limit.
pub const STREAM_WINDOW: u32 = 4 << 20;
/// Receive window of one connection in bytes.
pub const CONNECTION_WINDOW: u32 = 32 << 20;
/// UDP socket buffers asked of the system, in bytes.
pub const UDP_BUFFER: usize = 4 << 20;
/// Handshakes in progress that an endpoint holds before it refuses more.
pub const MAX_INCOMING: usize = 256;

/// Milliseconds until a silent connection is given up.
pub const IDLE_TIMEOUT_MS: u64 = 30_000;
/// Milliseconds between keep-alives of an agent with work in progress.
pub const KEEP_ALIVE_MS: u64 = 10_000;
/// Milliseconds that a peer has to complete a hello, a request or a refusal that it has begun.
pub const EXCHANGE_TIMEOUT_MS: u64 = 10_000;
/// Milliseconds that a stream may wait at an exhausted credit window before the node gives up on payment.
pub const PAYMENT_TIMEOUT_MS: u64 = 15_000;
/// Bad signatures on one connection before it is closed: honest peers send none.
pub const MAX_BAD_SIGNATURES: u32 = 8;

/// Seconds before its expiry at which a node stops accepting a voucher: the longest time settling may take.
pub const SETTLE_MARGIN_S: i64 = 24 * 60 * 60;
