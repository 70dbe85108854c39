use super::*;
use proptest::prelude::*;

/// A file with this header and as many bytes of data.
fn file(json: &str, data_bytes: usize) -> Vec<u8> {
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(json.as_bytes());
    bytes.resize(bytes.len() + data_bytes, 7);
    bytes
}

const GOOD: &str = r#"{"__metadata__":{"format":"pt"},"b":{"dtype":"BF16","shape":[2,3],"data_offsets":[4,16]},"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}   "#;

fn read_whole(bytes: &[u8]) -> Result<FileHeader, CheckpointError> {
    read_header("x", bytes, bytes.len())
}

fn problem(bytes: &[u8]) -> String {
    let message = read_header("x.safetensors", bytes, bytes.len()).unwrap_err().to_string();
    assert!(message.starts_with("x.safetensors: bad safetensors header: "), "{message}");
    assert!(!message.contains('\n'), "{message}");
    message
}

#[test]
fn a_good_header_is_read_in_the_order_of_the_file() {
    let header = read_whole(&file(GOOD, 16)).unwrap();
    assert_eq!(header.data_start, 8 + GOOD.len());
    let names: Vec<&str> = header.entries.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(names, ["b", "a"]);
    assert_eq!(header.entries[0].tensor.data_offsets, (4, 16));
    let empty = read_whole(&file("{}", 0)).unwrap();
    assert!(empty.entries.is_empty());
}

#[test]
fn metadata_that_is_null_is_as_none() {
    let json = GOOD.replace(r#"{"format":"pt"}"#, "null");
    let header = read_whole(&file(&json, 16)).unwrap();
    assert_eq!(header.entries.len(), 2);
    assert!(problem(&file(r#"{"__metadata__":{"a":null}}"#, 0)).contains("not a map of strings"));
    assert!(problem(&file(r#"{"__metadata__":[]}"#, 0)).contains("not a map of strings"));
}

#[test]
fn every_truncation_is_refused() {
    let whole = file(GOOD, 16);
    for length in 0..whole.len() {
        problem(&whole[..length]);
    }
    let mut longer = whole;
    longer.push(0);
    assert!(problem(&longer).contains("end after 16 bytes, but 17 follow"));
}

#[test]
fn lying_lengths_are_refused() {
    for length in [0, 1, 100_000_001, 1 << 40, 1 << 63, u64::MAX] {
        let mut bytes = file(GOOD, 16);
        bytes[..8].copy_from_slice(&length.to_le_bytes());
        problem(&bytes);
    }
}

#[test]
fn lying_json_is_refused_and_names_the_tensor() {
    let tensor = |fields: &str| format!(r#"{{"w":{{{fields}}}}}"#);
    let table = [
        (" {}".to_owned(), "begin with `{`"),
        ("[]".to_owned(), "begin with `{`"),
        ("{}\0\0".to_owned(), "trailing characters"),
        (format!("{{\"w\":{}", "[".repeat(10_000)), "tensor `w`"),
        (format!("{{\"__metadata__\":{{\"a\":{}", "[".repeat(10_000)), "__metadata__"),
        (tensor(r#""dtype":"X9","shape":[4],"data_offsets":[0,4]"#), "tensor `w`: unknown variant `X9`"),
        (tensor(r#""dtype":"U8","shape":[-4],"data_offsets":[0,4]"#), "tensor `w`"),
        (tensor(r#""dtype":"U8","shape":[4.0],"data_offsets":[0,4]"#), "tensor `w`"),
        (tensor(r#""dtype":"U8","shape":[4],"data_offsets":[4,0]"#), "tensor `w` lies at 4..0"),
        (tensor(r#""dtype":"U8","shape":[4],"data_offsets":[0,5]"#), "tensor `w` lies at 0..5"),
        (tensor(r#""dtype":"U8","shape":[4]"#), "missing field `data_offsets`"),
        (tensor(r#""dtype":"U8","shape":[3],"data_offsets":[0,4]"#), "U8 [3] needs 3"),
        (tensor(r#""dtype":"F4","shape":[3],"data_offsets":[0,4]"#), "F4 [3] needs 2"),
        (tensor(r#""dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,4]"#), "more than any file"),
        (tensor(r#""dtype":"F64","shape":[4611686018427387904],"data_offsets":[0,4]"#), "more than any file"),
        (tensor(r#""dtype":"U8","shape":[3],"data_offsets":[1,4]"#), "leaves a hole"),
        (tensor(r#""dtype":"U8","shape":[2],"data_offsets":[0,2]"#), "end after 2 bytes, but 4 follow"),
        (r#"{"__metadata__":{"a":1}}"#.to_owned(), "not a map of strings"),
    ];
    for (json, expected) in table {
        let message = problem(&file(&json, 4));
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn names_that_stand_twice_and_ranges_that_overlap_are_refused() {
    let one = r#""w":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}"#;
    assert!(problem(&file(&format!("{{{one},{one}}}"), 4)).contains("`w` stands twice"));
    let other = r#""v":{"dtype":"U8","shape":[2],"data_offsets":[2,4]}"#;
    assert!(problem(&file(&format!("{{{one},{other}}}"), 4)).contains("tensor `v` overlaps"));
    let hole = r#""v":{"dtype":"U8","shape":[2],"data_offsets":[5,7]}"#;
    assert!(problem(&file(&format!("{{{one},{hole}}}"), 7)).contains("tensor `v` overlaps the one before it or leaves a hole"));
    let mut bytes = file(GOOD, 16);
    let at = bytes.iter().position(|byte| *byte == b'b').unwrap();
    bytes[at] = 0xff;
    assert!(problem(&bytes).contains("not UTF-8"));
}

proptest! {
    #[test]
    fn no_bytes_panic_and_every_accepted_range_lies_in_the_file(
        flips in proptest::collection::vec((0_usize..180, any::<u8>()), 0..4),
        cut in 0_usize..200,
    ) {
        let mut bytes = file(GOOD, 16);
        for (at, value) in flips {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        bytes.truncate(cut.max(40));
        if let Ok(header) = read_whole(&bytes) {
            for entry in header.entries {
                prop_assert!(header.data_start + entry.tensor.data_offsets.1 <= bytes.len());
            }
        }
    }
}
