//! Every bound that a peer could push against, with its unit and its reason.

/// Application protocol of TLS: the major version of the protocol.
pub const ALPN: &[u8] = b"aro/1";
/// Minor version spoken here; a peer's larger one only adds optional fields.
pub const MINOR_VERSION: u16 = 1;
/// From which minor version on an agent is sent receipts.
pub const RECEIPTS_SINCE: u16 = 1;
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
/// Bytes of a binding's id: 128 bits of chance, so that no two meet.
pub const BIND_ID_LEN: usize = 16;
/// Bindings that one binding may replace: connections to one node that a process has when it dies are few.
pub const MAX_REPLACED: usize = 16;
/// Contents asked for under one signature: 72 bytes or more each, so the frame stays under its bound.
pub const MAX_FETCH_ITEMS: usize = 256;
/// Byte ranges of one content in one request.
pub const MAX_RANGES: usize = 256;
/// Vouchers in one handoff to an operator: 112 bytes each, so the frame stays under its bound.
pub const MAX_HANDOFF: usize = 256;
/// Uploads at once on one connection: so many stream windows are half of the connection's, and the control stream
/// always gets through.
pub const MAX_PUBLISHES_PER_CONNECTION: usize = 4;
/// Uploads at once over all connections, unless a node says otherwise: each holds three batches, the packets of
/// another two, 1.25 MiB, and two files, or three where it writes past the page cache.
pub const PUBLISHES_AT_ONCE: usize = 64;
/// Uploads at once of one publisher, unless a node says otherwise: it cannot keep the others out.
pub const PUBLISHES_AT_ONCE_PER_PUBLISHER: usize = 8;
/// Bytes of the largest content that a node takes, unless it says otherwise: 16 GiB.
pub const PUBLISH_CONTENT_BYTES: u64 = 16 << 30;
/// Bytes that one publisher may have at a node, unless that says otherwise: 64 GiB.
pub const PUBLISH_QUOTA_PER_PUBLISHER: u64 = 64 << 30;
/// Bytes that all publishers together may have at a node, unless that says otherwise: 256 GiB.
pub const PUBLISH_QUOTA: u64 = 256 << 30;
/// Bytes of broken-off uploads that a node keeps for their resumption, unless it says otherwise: 16 GiB. Beyond it the
/// oldest go first.
pub const PUBLISH_PARTIAL_BYTES: u64 = 16 << 30;
/// Seconds for which a node keeps a broken-off upload, unless it says otherwise: one day.
pub const PUBLISH_PARTIAL_KEEP_S: u64 = 24 * 60 * 60;
/// Requests that one receipt is for: what a quantum of small requests comes to, and the frame stays under its bound.
pub const MAX_RECEIPT_DELIVERIES: usize = 64;
/// Byte ranges of all of them, at most 20 bytes each, so that the frame stays under its bound.
pub const MAX_RECEIPT_RANGES: usize = 2_048;
/// Ended requests of a connection that wait for their payment, or for their receipt: as many as may be open, and again as
/// many as end while a disk syncs.
pub const MAX_AWAITED_RECEIPTS: usize = 512;
/// Byte ranges of all of them: 128 KiB.
pub const MAX_AWAITED_RANGES: usize = 8_192;
/// Receipts of a connection that are kept because they came before the end of their request: 2 MiB of the largest.
pub const MAX_EARLY_RECEIPTS: usize = 32;
/// Receipts of a connection that are not for what was delivered, or not signed, before it is closed.
pub const MAX_BAD_RECEIPTS: u32 = 8;
/// Bytes of a manifest: 16 MiB, which a reader holds at once. Some 100 bytes an entry leave room for longer names.
pub const MAX_MANIFEST_BYTES: usize = 16 << 20;
/// Entries of a manifest: 65,536, as many as its bytes allow with usual names. Larger trees are several manifests.
pub const MAX_MANIFEST_ENTRIES: usize = 1 << 16;
/// Bytes of an entry's whole name: a quarter of what Linux takes as a path, so that a folder before it still fits.
pub const MAX_ENTRY_NAME: usize = 1024;
/// Bytes of one part of an entry's name: what file systems take.
pub const MAX_ENTRY_PART: usize = 255;
/// Parts of an entry's name: a writer holds a folder open for each.
pub const MAX_ENTRY_DEPTH: usize = 32;
/// Bytes of a publisher's name for something: one DNS label and one more.
pub const MAX_NAME: usize = 64;
/// Names that one publisher may have at a node, unless that says otherwise: some 300 bytes each.
pub const NAMES_PER_PUBLISHER: usize = 1_024;
/// Names that all publishers together may have at a node, unless that says otherwise: some 30 MB on disk.
pub const NAMES: usize = 100_000;
/// Names that a node writes or looks up at once; each takes a thread for one disk access.
pub const NAMES_AT_ONCE: usize = 32;
/// Unit kinds of one tariff.
pub const MAX_TARIFF_KINDS: usize = 16;

/// Bytes of one content: 16 TiB. Keeps every offset and price product far from overflow.
pub const MAX_CONTENT_SIZE: u64 = 1 << 44;

/// What a node lends an agent that has paid nothing yet, and the least that a voucher pays where more is lent: 1 MiB.
pub const QUANTUM_BYTES: u64 = 1 << 20;
/// Largest credit window in bytes: 128 MiB. What may be on its way (32 MiB), a payment step, and as much again for what
/// comes while two disks make its voucher durable.
pub const MAX_WINDOW_BYTES: u64 = 128 << 20;

/// Request streams that an agent may have open at once on a connection.
pub const MAX_REQUEST_STREAMS: u32 = 256;
/// Receive window of one stream in bytes: 2 MiB. It stays below 2,048 full packets, about 2.9 MB, above which quinn
/// compacts what it holds under the connection's lock; what a longer path needs, several streams have together.
pub const STREAM_WINDOW: u32 = 2 << 20;
/// Receive window of one connection in bytes: 32 MiB, shared by its streams.
pub const CONNECTION_WINDOW: u32 = 32 << 20;
/// Bytes that a server sends on a new connection before the first acknowledgement: 32 packets, as content networks do. A
/// chunk group of 16 KiB then comes in one round trip, which the 10 packets of RFC 9002 would make two.
pub const INITIAL_WINDOW: u64 = 32 * 1_200;
/// Receive window of one stream at a server, in bytes: 1 MiB, which an upload fills and frames never do.
pub const SERVER_STREAM_WINDOW: u32 = 1 << 20;
/// Receive window of one connection at a server, in bytes: 8 MiB. Uploads that wait for their payment may fill half
/// of it (see [`MAX_PUBLISHES_PER_CONNECTION`]); the other half is for the control stream, which brings the payment,
/// and for requests.
pub const SERVER_CONNECTION_WINDOW: u32 = 8 << 20;
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

/// Seconds before a closing channel's deadline after which a node takes no voucher and serves nothing more on it: what
/// came later might not reach the operator and the chain in time.
pub const CLOSING_MARGIN_S: i64 = 120;
/// Seconds before its expiry at which a node stops accepting a voucher: the longest time settling may take.
pub const SETTLE_MARGIN_S: i64 = 24 * 60 * 60;
/// Nodes that one delegation may name: each has a channel of its own on chain.
pub const MAX_DELEGATED_NODES: usize = 16;
