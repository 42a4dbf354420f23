//! Weighs a protobuf file before it is decoded. A message of two bytes may become a struct of two hundred, so a
//! small hostile file could otherwise take all memory; and here a corrupt file gets an error that says where.

use crate::limits::{DECODED_PER_BYTE, DECODED_SLACK};
use crate::proto::{
    AttributeProto, Dimension, ElementType, FunctionProto, GraphProto, MapType, ModelProto, NodeProto, OpaqueType,
    OperatorSetId, OptionalProto, Segment, SequenceProto, SparseTensorProto, StringStringEntry, TensorProto,
    TensorShapeProto, TensorType, TypeProto, ValueInfoProto,
};
use std::mem::size_of;
use tenon_ir::ImportError;

/// The messages of `proto.rs`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Message {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    Segment,
    Sparse,
    Sequence,
    Optional,
    ValueInfo,
    Type,
    TensorType,
    ElementType,
    MapType,
    OpaqueType,
    Shape,
    Dimension,
    OpsetId,
    Function,
    Entry,
}

impl Message {
    /// The message in field `field`, if that is one that is decoded.
    fn field(self, field: u64) -> Option<Message> {
        Some(match (self, field) {
            (Message::Model, 7) | (Message::Attribute, 6) => Message::Graph,
            (Message::Model, 8) | (Message::Function, 9) => Message::OpsetId,
            (Message::Model, 14) | (Message::Tensor, 13) => Message::Entry,
            (Message::Model, 25) => Message::Function,
            (Message::Graph, 1) | (Message::Function, 7) => Message::Node,
            (Message::Graph, 5) | (Message::Attribute, 5) | (Message::Sparse, 1 | 2) => Message::Tensor,
            (Message::Sequence | Message::Optional, 3) => Message::Tensor,
            (Message::Optional, 5) => Message::Sequence,
            (Message::Graph, 11 | 12) => Message::ValueInfo,
            (Message::Graph, 15) => Message::Sparse,
            (Message::Node, 5) | (Message::Function, 11) => Message::Attribute,
            (Message::Tensor, 3) => Message::Segment,
            (Message::ValueInfo, 2) | (Message::ElementType, 1) | (Message::MapType, 2) => Message::Type,
            (Message::Type, 1 | 8) => Message::TensorType,
            (Message::Type, 4 | 9) => Message::ElementType,
            (Message::Type, 5) => Message::MapType,
            (Message::Type, 7) => Message::OpaqueType,
            (Message::TensorType, 2) => Message::Shape,
            (Message::Shape, 1) => Message::Dimension,
            _ => return None,
        })
    }

    /// Bytes of it when decoded, without what its strings and lists hold.
    fn decoded_size(self) -> usize {
        match self {
            Message::Model => size_of::<ModelProto>(),
            Message::Graph => size_of::<GraphProto>(),
            Message::Node => size_of::<NodeProto>(),
            Message::Attribute => size_of::<AttributeProto>(),
            Message::Tensor => size_of::<TensorProto>(),
            Message::Segment => size_of::<Segment>(),
            Message::Sparse => size_of::<SparseTensorProto>(),
            Message::Sequence => size_of::<SequenceProto>(),
            Message::Optional => size_of::<OptionalProto>(),
            Message::ValueInfo => size_of::<ValueInfoProto>(),
            Message::Type => size_of::<TypeProto>(),
            Message::TensorType => size_of::<TensorType>(),
            Message::ElementType => size_of::<ElementType>(),
            Message::MapType => size_of::<MapType>(),
            Message::OpaqueType => size_of::<OpaqueType>(),
            Message::Shape => size_of::<TensorShapeProto>(),
            Message::Dimension => size_of::<Dimension>(),
            Message::OpsetId => size_of::<OperatorSetId>(),
            Message::Function => size_of::<FunctionProto>(),
            Message::Entry => size_of::<StringStringEntry>(),
        }
    }
}

/// A base-128 number at `*at`, before `end`.
fn varint(data: &[u8], at: &mut usize, end: usize) -> Result<u64, ImportError> {
    let start = *at;
    let mut v = 0u64;
    for shift in (0..70).step_by(7) {
        if *at >= end {
            return Err(corrupt(start, "a number runs past the end of its message"));
        }
        let b = data[*at];
        *at += 1;
        v |= u64::from(b & 0x7f).checked_shl(shift).unwrap_or(0);
        if b < 0x80 {
            return Ok(v);
        }
    }
    Err(corrupt(start, "a number is longer than ten bytes"))
}

fn corrupt(at: usize, what: &str) -> ImportError {
    ImportError::new(format!("the file is not valid protobuf: at byte {at}, {what}"))
        .with_help("it may be cut short or damaged; fetch or export it again")
}

/// Checks that `data` is a well-formed message of type `root` and that decoding it takes bounded memory.
pub(crate) fn check(data: &[u8], root: Message) -> Result<(), ImportError> {
    let budget = data.len().saturating_mul(DECODED_PER_BYTE).saturating_add(DECODED_SLACK);
    let mut weight = root.decoded_size();
    // Messages being read: their type and where they end. `None`: inside a group, which is skipped.
    let mut open: Vec<(Option<Message>, usize)> = vec![(Some(root), data.len())];
    let mut at = 0;
    while let Some(&(message, end)) = open.last() {
        if at == end {
            if message.is_none() {
                return Err(corrupt(at, "a group does not end"));
            }
            open.pop();
            continue;
        }
        let start = at;
        let tag = varint(data, &mut at, end)?;
        let (field, wire) = (tag >> 3, tag & 7);
        if field == 0 || tag > u64::from(u32::MAX) {
            return Err(corrupt(start, "a field has no valid number"));
        }
        match wire {
            0 => {
                varint(data, &mut at, end)?;
            }
            1 | 5 => {
                let n = if wire == 1 { 8 } else { 4 };
                if end - at < n {
                    return Err(corrupt(start, &format!("a number needs {n} bytes, {} are left", end - at)));
                }
                at += n;
            }
            2 => {
                let n = varint(data, &mut at, end)?;
                let left = end - at;
                let Some(n) = usize::try_from(n).ok().filter(|n| *n <= left) else {
                    return Err(corrupt(start, &format!("a field needs {n} bytes, {left} are left")));
                };
                match message.and_then(|m| m.field(field)) {
                    Some(child) => {
                        weight = weight.saturating_add(child.decoded_size());
                        if weight > budget {
                            return Err(ImportError::new(format!(
                                "the file is refused: its {} bytes hold so many tiny messages that it would take more than {budget} \
                                 bytes of memory",
                                data.len()
                            )));
                        }
                        if open.len() >= 100 {
                            return Err(corrupt(start, "messages are nested more than 100 deep"));
                        }
                        open.push((Some(child), at + n));
                    }
                    None => at += n,
                }
            }
            3 => {
                if open.len() >= 100 {
                    return Err(corrupt(start, "messages are nested more than 100 deep"));
                }
                open.push((None, end));
            }
            4 if message.is_none() => {
                open.pop();
            }
            _ => return Err(corrupt(start, &format!("wire type {wire} is not expected"))),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(data: &[u8]) -> String {
        check(data, Message::Model).unwrap_err().message
    }

    #[test]
    fn says_where_a_file_is_damaged() {
        assert!(check(&[], Message::Model).is_ok());
        assert!(check(&[8, 7, 0x3a, 2, 0x0a, 0], Message::Model).is_ok());
        let prefix = "the file is not valid protobuf: at byte";
        assert_eq!(message(&[8, 7, 0x3a, 9, 0x0a, 0]), format!("{prefix} 2, a field needs 9 bytes, 2 are left"));
        assert_eq!(message(&[8, 0x80]), format!("{prefix} 1, a number runs past the end of its message"));
        assert_eq!(message(&[8, 7, 0x0f]), format!("{prefix} 2, wire type 7 is not expected"));
        assert_eq!(message(&[0x0b]), format!("{prefix} 1, a group does not end"));
        assert_eq!(message(&[0]), format!("{prefix} 0, a field has no valid number"));
        assert_eq!(message(&[0xff; 12]), format!("{prefix} 0, a number is longer than ten bytes"));
        assert_eq!(message(&[0x0d, 1, 2]), format!("{prefix} 0, a number needs 4 bytes, 2 are left"));
    }

    #[test]
    fn many_tiny_messages_are_refused_before_they_are_decoded() {
        // Nodes without content: two bytes each.
        let n = 8 << 20;
        let mut data = vec![0x3a];
        prost::encoding::encode_varint(2 * n, &mut data);
        data.extend([0x0a, 0].repeat(n as usize));
        assert!(message(&data).starts_with("the file is refused"));
    }
}
