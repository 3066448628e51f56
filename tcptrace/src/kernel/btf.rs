//! The running kernel's own description of its types: where each struct member lies.
//!
//! Format: `Documentation/bpf/btf.rst`. Pure: bytes in, offsets out; any input gives a value or
//! an error.

use std::collections::HashMap;

const MAGIC: u16 = 0xeb9f;
const HEADER_LEN: usize = 24;

const KIND_INT: u32 = 1;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_FWD: u32 = 7;
const KIND_TYPEDEF: u32 = 8;
const KIND_VOLATILE: u32 = 9;
const KIND_CONST: u32 = 10;
const KIND_RESTRICT: u32 = 11;
const KIND_FUNC: u32 = 12;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
const KIND_DATASEC: u32 = 15;
const KIND_DECL_TAG: u32 = 17;
const KIND_TYPE_TAG: u32 = 18;
const KIND_ENUM64: u32 = 19;
const KIND_MAX: u32 = 19;

/// How deep members may nest: a crafted type graph must not exhaust the stack.
const DEPTH_MAX: u32 = 16;

/// How many members are looked at for one: nor must it take forever. A struct has at most 65,535.
const MEMBERS_MAX: u32 = 1 << 17;

/// How long a name may be; the kernel's own limit, `KSYM_NAME_LEN`, is 512.
const NAME_MAX: usize = 4096;

/// Why BTF could not be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BtfError {
    /// The bytes are not BTF of this machine's byte order.
    #[error("not BTF: {0}")]
    Malformed(&'static str),
    /// A type that this reader does not know.
    #[error("unknown type kind {0}")]
    UnknownKind(u32),
    /// The kernel has no such struct.
    #[error("no struct {0}")]
    NoStruct(String),
    /// The struct has no such member.
    #[error("no member {member} in struct {structure}")]
    NoMember {
        /// The struct looked in
        structure: String,
        /// The member path looked for
        member: String,
    },
}

/// Parsed BTF: borrowed bytes and an index of its types.
#[derive(Debug)]
pub struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// Offset of each type in `types`; type 1 first.
    index: Vec<u32>,
    /// First struct of each name.
    structs: HashMap<&'a [u8], u32>,
}

#[derive(Clone, Copy)]
struct Type {
    name: u32,
    kind: u32,
    flag: bool,
    len: u32,
    /// `size` or `type`, by kind
    word: u32,
    /// Offset of what follows the common part
    body: usize,
}

impl<'a> Btf<'a> {
    /// Reads the header and walks all types once.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BtfError> {
        let magic = bytes.get(..2).ok_or(BtfError::Malformed("too short"))?;
        if magic != MAGIC.to_ne_bytes() {
            return Err(BtfError::Malformed("wrong magic number"));
        }
        if bytes.len() < HEADER_LEN {
            return Err(BtfError::Malformed("too short"));
        }
        let field = |at: usize| word(bytes, at).map(|value| value as usize);
        let header = field(4)?;
        let section = |offset: usize, len: usize| {
            let start = header.checked_add(offset)?;
            bytes.get(start..start.checked_add(len)?)
        };
        let types =
            section(field(8)?, field(12)?).ok_or(BtfError::Malformed("type section cut"))?;
        let strings =
            section(field(16)?, field(20)?).ok_or(BtfError::Malformed("string section cut"))?;

        let mut btf = Self {
            types,
            strings,
            index: Vec::with_capacity(types.len() / 24),
            structs: HashMap::new(),
        };
        let mut at = 0;
        while at < types.len() {
            let ty = btf.read(at)?;
            let id = u32::try_from(btf.index.len() + 1)
                .map_err(|_overflow| BtfError::Malformed("too many types"))?;
            btf.index
                .push(u32::try_from(at).map_err(|_overflow| BtfError::Malformed("too large"))?);
            if ty.kind == KIND_STRUCT && ty.name != 0 {
                let name = btf.string(ty.name)?;
                btf.structs.entry(name).or_insert(id);
            }
            at = ty.body + body_len(ty.kind, ty.len as usize)?;
        }
        Ok(btf)
    }

    /// Byte offset of a member from the start of a struct. `path` is `member` or
    /// `member.member…`; members of anonymous structs and unions need no mention.
    pub fn offset(&self, structure: &str, path: &str) -> Result<u32, BtfError> {
        let bits = self.bit_offset(structure, path)?;
        if !bits.is_multiple_of(8) {
            return Err(BtfError::Malformed("member is a bit field"));
        }
        Ok(bits / 8)
    }

    /// The same in bits, for bit fields; of these the lowest bit, on little-endian machines.
    pub fn bit_offset(&self, structure: &str, path: &str) -> Result<u32, BtfError> {
        let missing = || BtfError::NoMember {
            structure: structure.to_owned(),
            member: path.to_owned(),
        };
        let mut id = *self
            .structs
            .get(structure.as_bytes())
            .ok_or_else(|| BtfError::NoStruct(structure.to_owned()))?;
        let mut bits = 0_u32;
        let mut left = MEMBERS_MAX;
        for name in path.split('.') {
            let (offset, member) = self
                .member(self.resolve(id)?, name.as_bytes(), 0, &mut left)?
                .ok_or_else(missing)?;
            bits = bits
                .checked_add(offset)
                .ok_or(BtfError::Malformed("offset"))?;
            id = member;
        }
        Ok(bits)
    }

    /// The names of an enum's values, by value; none if the kernel has no such enum.
    pub fn enumerators(&self, name: &str) -> Result<HashMap<u32, String>, BtfError> {
        let mut names = HashMap::new();
        for at in &self.index {
            let ty = self.read(*at as usize)?;
            if ty.kind != KIND_ENUM || ty.name == 0 || !self.is_named(ty.name, name.as_bytes())? {
                continue;
            }
            for nth in 0..ty.len as usize {
                let at = ty.body + nth * 8;
                let text = String::from_utf8_lossy(self.string(word(self.types, at)?)?);
                names.insert(word(self.types, at + 4)?, text.into_owned());
            }
            break;
        }
        Ok(names)
    }

    /// How many arguments a tracepoint gives to a `tp_btf` program; 0 if there is no such
    /// tracepoint.
    pub fn tracepoint_args(&self, name: &str) -> Result<u32, BtfError> {
        let name = format!("btf_trace_{name}");
        for at in &self.index {
            let ty = self.read(*at as usize)?;
            if ty.kind == KIND_TYPEDEF && self.is_named(ty.name, name.as_bytes())? {
                let pointer = self.resolve(ty.word)?;
                // The first parameter of the kernel's own callback is its private data.
                return Ok(self.resolve(pointer.word)?.len.saturating_sub(1));
            }
        }
        Ok(0)
    }

    /// The number of a function; none if the kernel describes none of this name.
    pub fn function(&self, name: &str) -> Result<Option<u32>, BtfError> {
        for (id, at) in (1..).zip(&self.index) {
            let ty = self.read(*at as usize)?;
            if ty.kind == KIND_FUNC && self.is_named(ty.name, name.as_bytes())? {
                return Ok(Some(id));
            }
        }
        Ok(None)
    }

    /// A smaller description in which every type keeps its number, but only those that programs are
    /// attached by keep their names: functions of these names, and tracepoints and iterators. All
    /// others become forward declarations, which take 12 bytes.
    pub fn reduced(&self, functions: &[&str]) -> Result<Vec<u8>, BtfError> {
        let mut types = Vec::with_capacity(self.index.len() * 12);
        let mut strings = vec![0];
        for at in &self.index {
            let ty = self.read(*at as usize)?;
            let name = self.string(ty.name)?;
            let keeps = match ty.kind {
                KIND_TYPEDEF => name.starts_with(b"btf_trace_"),
                KIND_FUNC => {
                    name.starts_with(b"bpf_iter_")
                        || functions.iter().any(|function| function.as_bytes() == name)
                }
                _ => false,
            };
            let (name, info, word) = if keeps {
                let at = u32::try_from(strings.len())
                    .map_err(|_overflow| BtfError::Malformed("too large"))?;
                strings.extend_from_slice(name);
                strings.push(0);
                // Each name has a place of its own there, unless it is crafted.
                if strings.len() > self.strings.len() {
                    return Err(BtfError::Malformed("names within names"));
                }
                (at, ty.kind << 24 | ty.len, ty.word)
            } else {
                (0, KIND_FWD << 24, 0)
            };
            for part in [name, info, word] {
                types.extend_from_slice(&part.to_ne_bytes());
            }
        }
        let len = |bytes: &[u8]| {
            u32::try_from(bytes.len()).map_err(|_overflow| BtfError::Malformed("too large"))
        };
        let (types_len, strings_len) = (len(&types)?, len(&strings)?);
        let mut bytes = Vec::with_capacity(HEADER_LEN + types.len() + strings.len());
        bytes.extend_from_slice(&MAGIC.to_ne_bytes());
        bytes.extend_from_slice(&[1, 0]);
        for part in [24, 0, types_len, types_len, strings_len] {
            bytes.extend_from_slice(&part.to_ne_bytes());
        }
        bytes.extend_from_slice(&types);
        bytes.extend_from_slice(&strings);
        Ok(bytes)
    }

    /// Whether the kernel describes a struct of this name.
    pub fn has_struct(&self, name: &str) -> bool {
        self.structs.contains_key(name.as_bytes())
    }

    fn read(&self, at: usize) -> Result<Type, BtfError> {
        let info = word(self.types, at + 4)?;
        Ok(Type {
            name: word(self.types, at)?,
            kind: info >> 24 & 0x1f,
            flag: info >> 31 != 0,
            len: info & 0xffff,
            word: word(self.types, at + 8)?,
            body: at + 12,
        })
    }

    fn by_id(&self, id: u32) -> Result<Type, BtfError> {
        let at = (id as usize)
            .checked_sub(1)
            .and_then(|index| self.index.get(index))
            .ok_or(BtfError::Malformed("type id out of range"))?;
        self.read(*at as usize)
    }

    /// Follows typedefs and qualifiers to the type behind them.
    fn resolve(&self, mut id: u32) -> Result<Type, BtfError> {
        for _ in 0..DEPTH_MAX {
            let ty = self.by_id(id)?;
            match ty.kind {
                KIND_TYPEDEF | KIND_VOLATILE | KIND_CONST | KIND_RESTRICT | KIND_TYPE_TAG => {
                    id = ty.word;
                }
                _ => return Ok(ty),
            }
        }
        Err(BtfError::Malformed("qualifiers nest too deep"))
    }

    /// Finds a member, in anonymous members too: its offset in bits and its type.
    fn member(
        &self,
        ty: Type,
        name: &[u8],
        depth: u32,
        left: &mut u32,
    ) -> Result<Option<(u32, u32)>, BtfError> {
        if ty.kind != KIND_STRUCT && ty.kind != KIND_UNION {
            return Ok(None);
        }
        if depth > DEPTH_MAX {
            return Err(BtfError::Malformed("members nest too deep"));
        }
        for nth in 0..ty.len as usize {
            *left = left
                .checked_sub(1)
                .ok_or(BtfError::Malformed("too many members"))?;
            let at = ty.body + nth * 12;
            let member_name = word(self.types, at)?;
            let member_type = word(self.types, at + 4)?;
            let position = word(self.types, at + 8)?;
            let bits = if ty.flag {
                position & 0x00ff_ffff
            } else {
                position
            };
            if member_name == 0 {
                let inner = self.resolve(member_type)?;
                if let Some((offset, found)) = self.member(inner, name, depth + 1, left)? {
                    let bits = bits
                        .checked_add(offset)
                        .ok_or(BtfError::Malformed("offset"))?;
                    return Ok(Some((bits, found)));
                }
            } else if self.is_named(member_name, name)? {
                return Ok(Some((bits, member_type)));
            }
        }
        Ok(None)
    }

    /// Whether that is the string there, without looking at more of it.
    fn is_named(&self, at: u32, name: &[u8]) -> Result<bool, BtfError> {
        self.strings
            .get(at as usize..)
            .map(|rest| {
                rest.strip_prefix(name)
                    .is_some_and(|rest| rest.first() == Some(&0))
            })
            .ok_or(BtfError::Malformed("string out of range"))
    }

    fn string(&self, at: u32) -> Result<&'a [u8], BtfError> {
        let rest = self
            .strings
            .get(at as usize..)
            .ok_or(BtfError::Malformed("string out of range"))?;
        let end = rest
            .iter()
            .take(NAME_MAX)
            .position(|byte| *byte == 0)
            .ok_or(BtfError::Malformed("string too long"))?;
        Ok(&rest[..end])
    }
}

fn word(bytes: &[u8], at: usize) -> Result<u32, BtfError> {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk())
        .map(|chunk| u32::from_ne_bytes(*chunk))
        .ok_or(BtfError::Malformed("cut short"))
}

/// Bytes that follow the common part of a type.
fn body_len(kind: u32, len: usize) -> Result<usize, BtfError> {
    Ok(match kind {
        KIND_INT | KIND_VAR | KIND_DECL_TAG => 4,
        KIND_ARRAY => 12,
        KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => len * 12,
        KIND_ENUM | KIND_FUNC_PROTO => len * 8,
        0 => return Err(BtfError::Malformed("type of kind 0")),
        kind if kind > KIND_MAX => return Err(BtfError::UnknownKind(kind)),
        _ => 0,
    })
}

#[cfg(test)]
mod tests;
