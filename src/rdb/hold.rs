//! Whether a value is small: its bytes are held back until it has ended, or is known to be big.
//!
//! What counts are the plain bytes, since a short compressed string may be a long one, and the elements, as far as lengths
//! and the heads of packed strings tell of them.

use super::decode::packed_in;
use super::error::{RdbError, Stop};
use super::grammar::{Holds, Kind, PLAIN_NODE, Packed, Role, Token, Walk};
use super::input::{Input, within};
use super::limits::Limits;
use super::unpack::{HEAD, entries};

/// What is known of a value that is held back.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Hold {
    plain_bytes: u64,
    elements: u64,
    /// A packed string has begun, and its first bytes tell how much is in it.
    peek: bool,
    container: u64,
}

/// How large a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    /// It has ended, and may be passed on as it is.
    Small,
    /// It is above some limit, wherever it ends.
    Big,
}

impl Hold {
    /// Walks on until the size is known.
    pub(super) fn walk(
        &mut self,
        kind: &Kind,
        limits: &Limits,
        walk: &mut Walk,
        input: &mut Input,
    ) -> Result<Size, Stop> {
        loop {
            if self.peek {
                self.peek(kind, walk, input)?;
            }
            if self.is_big(kind, limits, input)? {
                return Ok(Size::Big);
            }
            walk.text.skip(input)?;
            let (role, token) = walk.next(input)?;
            input.commit();
            match token {
                Token::End if self.is_big(kind, limits, input)? => return Ok(Size::Big),
                Token::End => return Ok(Size::Small),
                Token::Text(length) => {
                    self.plain_bytes = self.plain_bytes.saturating_add(length);
                    self.peek = self.is_packed(role);
                }
                Token::Count(count) if role == Role::Elements => self.elements = count,
                Token::Number(number) if role == Role::Container => self.container = number,
                Token::Number(_) | Token::Count(_) | Token::Millis(_) | Token::Score(_) | Token::Id(_) => {}
            }
        }
    }

    fn is_packed(&mut self, role: Role) -> bool {
        match role {
            Role::Blob => true,
            Role::Node if self.container == PLAIN_NODE => {
                self.elements += 1;
                false
            }
            Role::Node => true,
            _ => false,
        }
    }

    /// What the first bytes of a packed string tell.
    fn peek(&mut self, kind: &Kind, walk: &Walk, input: &Input) -> Result<(), Stop> {
        let packed = packed_in(kind.holds);
        let head = walk.text.head(input, HEAD)?;
        let each = match kind.holds {
            Holds::ExpiringHash(_) => 3,
            Holds::Hash(_) | Holds::Zset(_) => 2,
            Holds::Text | Holds::List(_) | Holds::Set(_) | Holds::Stream | Holds::Module => 1,
        };
        let count = match packed {
            Packed::No => 0,
            Packed::Ziplist | Packed::Listpack | Packed::Intset | Packed::Zipmap => entries(packed, &head),
        };
        self.elements = self.elements.saturating_add(count / each);
        self.peek = false;
        Ok(())
    }

    fn is_big(&self, kind: &Kind, limits: &Limits, input: &Input) -> Result<bool, RdbError> {
        let stored = input.held().len() as u64;
        let bytes = self.plain_bytes.max(stored);
        Ok(match kind.holds {
            Holds::Module => {
                within("a module's value", bytes, limits.module_bytes)?;
                false
            }
            Holds::Stream => bytes > limits.stream_bytes,
            Holds::Text => bytes > limits.small_bytes,
            Holds::List(_) | Holds::Set(_) | Holds::Zset(_) | Holds::Hash(_) | Holds::ExpiringHash(_) => {
                bytes > limits.small_bytes || self.elements > limits.small_elements
            }
        })
    }
}
