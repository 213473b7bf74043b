//! Whom to tell about a flaw. Explorers and auditors find it in the deployed program by its first and last line: the
//! format of solana-security-txt, key and value in turn, each ended by a zero byte.

/// Kept though nothing reads it. sbpf-linker takes over read-only data alone, so it stands there; Solana's own linker
/// gives it the section that the format names.
#[used]
#[cfg_attr(target_os = "solana", unsafe(link_section = ".security.txt"))]
#[cfg_attr(all(target_arch = "bpf", not(target_os = "solana")), unsafe(link_section = ".rodata.security.txt"))]
#[cfg_attr(any(target_os = "solana", target_arch = "bpf"), unsafe(no_mangle))]
pub static SECURITY_TXT: [u8; TEXT.len()] = {
    let mut bytes = [0; TEXT.len()];
    bytes.copy_from_slice(TEXT.as_bytes());
    bytes
};

const TEXT: &str = concat!(
    "=======BEGIN SECURITY.TXT V1=======\0",
    "name\0",
    "ARO settlement\0",
    "project_url\0",
    env!("CARGO_PKG_REPOSITORY"),
    "\0",
    "contacts\0link:",
    env!("CARGO_PKG_REPOSITORY"),
    "/security/advisories/new\0",
    "policy\0",
    "Report privately by the contact above, before anybody else can read it. No bounty is promised; whoever finds a ",
    "flaw is thanked by name in the changelog.\0",
    "preferred_languages\0en\0",
    "source_code\0",
    env!("CARGO_PKG_REPOSITORY"),
    "\0",
    "=======END SECURITY.TXT V1=======\0",
);
