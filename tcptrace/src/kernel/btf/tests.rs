use super::*;

/// Builds BTF with a type section and a string section.
struct Builder {
    types: Vec<u8>,
    strings: Vec<u8>,
}

impl Builder {
    fn new() -> Self {
        Self {
            types: Vec::new(),
            strings: vec![0],
        }
    }

    fn name(&mut self, name: &str) -> u32 {
        if name.is_empty() {
            return 0;
        }
        let at = self.strings.len();
        self.strings.extend_from_slice(name.as_bytes());
        self.strings.push(0);
        u32::try_from(at).unwrap()
    }

    fn words(&mut self, words: &[u32]) {
        for word in words {
            self.types.extend_from_slice(&word.to_ne_bytes());
        }
    }

    fn int(&mut self) {
        let name = self.name("int");
        self.words(&[name, KIND_INT << 24, 4, 32]);
    }

    fn composite(&mut self, kind: u32, name: &str, members: &[(&str, u32, u32)]) {
        let name = self.name(name);
        let len = u32::try_from(members.len()).unwrap();
        self.words(&[name, kind << 24 | len, 64]);
        for (member, ty, bytes) in members {
            let member = self.name(member);
            self.words(&[member, *ty, bytes * 8]);
        }
    }

    fn finish(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&MAGIC.to_ne_bytes());
        bytes.extend_from_slice(&[1, 0]);
        let types = u32::try_from(self.types.len()).unwrap();
        let strings = u32::try_from(self.strings.len()).unwrap();
        for word in [24, 0, types, types, strings] {
            bytes.extend_from_slice(&word.to_ne_bytes());
        }
        bytes.extend_from_slice(&self.types);
        bytes.extend_from_slice(&self.strings);
        bytes
    }
}

fn sample() -> Vec<u8> {
    let mut builder = Builder::new();
    builder.int();
    builder.composite(KIND_UNION, "", &[("skc_pair", 1, 0), ("skc_port", 1, 0)]);
    builder.composite(KIND_STRUCT, "sock_common", &[("hash", 1, 0), ("", 2, 12)]);
    builder.composite(KIND_STRUCT, "sock", &[("x", 1, 0), ("__sk_common", 3, 8)]);
    builder.finish()
}

#[test]
fn finds_a_member_of_an_anonymous_union() {
    let bytes = sample();
    let btf = Btf::parse(&bytes).unwrap();
    assert_eq!(btf.offset("sock", "__sk_common.skc_port"), Ok(20));
}

#[test]
fn a_reduced_description_keeps_numbers_and_names() {
    let mut builder = Builder::new();
    builder.int();
    let name = builder.name("btf_trace_x");
    builder.words(&[name, KIND_TYPEDEF << 24, 1]);
    for function in ["kept", "other"] {
        let name = builder.name(function);
        builder.words(&[name, KIND_FUNC << 24 | 1, 1]);
    }
    let bytes = builder.finish();
    let reduced = Btf::parse(&bytes).unwrap().reduced(&["kept"]).unwrap();
    let reduced = Btf::parse(&reduced).unwrap();
    let named = |id| {
        let ty = reduced.by_id(id).unwrap();
        (ty.kind, reduced.string(ty.name).unwrap())
    };
    assert_eq!(reduced.index.len(), 4);
    assert_eq!(named(1), (KIND_FWD, b"".as_slice()));
    assert_eq!(named(2), (KIND_TYPEDEF, b"btf_trace_x".as_slice()));
    assert_eq!(named(3), (KIND_FUNC, b"kept".as_slice()));
    assert_eq!(named(4), (KIND_FWD, b"".as_slice()));
}

#[test]
fn names_the_missing_member() {
    let bytes = sample();
    let btf = Btf::parse(&bytes).unwrap();
    let error = btf.offset("sock", "sk_gone").unwrap_err();
    assert_eq!(error.to_string(), "no member sk_gone in struct sock");
    assert_eq!(
        btf.offset("nope", "a").unwrap_err().to_string(),
        "no struct nope"
    );
}

#[test]
fn any_cut_is_an_error_or_a_smaller_whole() {
    let bytes = sample();
    for len in 0..bytes.len() {
        if let Ok(btf) = Btf::parse(&bytes[..len]) {
            let _either = btf.offset("sock", "__sk_common.skc_port");
        }
    }
}

#[test]
fn any_flipped_byte_is_survived() {
    let bytes = sample();
    for at in 0..bytes.len() {
        for flip in [1, 0x80, 0xff] {
            let mut bytes = bytes.clone();
            bytes[at] ^= flip;
            if let Ok(btf) = Btf::parse(&bytes) {
                let _either = btf.offset("sock", "__sk_common.skc_port");
            }
        }
    }
}
