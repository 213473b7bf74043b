//! The committed program tells whom to write to about a flaw.

use settlement_chain::PROGRAM_ELF;

const BEGIN: &[u8] = b"=======BEGIN SECURITY.TXT V1=======\0";
const END: &[u8] = b"=======END SECURITY.TXT V1=======\0";

#[test]
fn the_deployed_bytes_name_contact_policy_and_source() {
    let find = |needle: &[u8]| {
        let found: Vec<_> =
            PROGRAM_ELF.windows(needle.len()).enumerate().filter(|(_, bytes)| *bytes == needle).collect();
        assert_eq!(found.len(), 1, "once and only once");
        found[0].0
    };
    let text = &PROGRAM_ELF[find(BEGIN) + BEGIN.len()..find(END)];
    let words: Vec<&str> = str::from_utf8(text).unwrap().split_terminator('\0').collect();
    let (pairs, left) = words.as_chunks::<2>();
    assert!(left.is_empty(), "a key without a value");
    let value = |key: &str| pairs.iter().find(|[name, _]| *name == key).map(|[_, value]| *value).unwrap();
    assert_eq!(value("name"), "ARO settlement");
    let repository = value("source_code");
    assert!(repository.starts_with("https://"));
    assert_eq!(value("project_url"), repository);
    assert_eq!(value("contacts").strip_prefix("link:").unwrap(), format!("{repository}/security/advisories/new"));
    assert!(value("policy").len() > 20);
    assert_eq!(value("preferred_languages"), "en");
}
