//! Why a frame could not be taken in.

use std::borrow::Cow;

use super::Reason;
use super::car::CarError;
use super::cbor::CborError;

/// Why a frame is quarantined.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", reason.as_str())]
pub struct DecodeError {
    /// The label.
    pub reason: Reason,
    /// What exactly was wrong.
    pub detail: Cow<'static, str>,
}

impl DecodeError {
    #[cold]
    pub(crate) fn new(reason: Reason, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            reason,
            detail: detail.into(),
        }
    }

    #[cold]
    pub(crate) fn field(detail: &'static str) -> Self {
        Self::new(Reason::BadField, detail)
    }

    #[cold]
    pub(crate) fn missing(name: &'static str) -> Self {
        Self::new(Reason::BadField, format!("{name} is missing"))
    }

    #[cold]
    fn cbor(name: &'static str, error: CborError) -> Self {
        let reason = match error {
            CborError::WrongType => Reason::BadField,
            CborError::TooDeep | CborError::TooMany => Reason::TooLarge,
            _ => Reason::BadCbor,
        };
        Self::new(reason, format!("{name}: {error}"))
    }
}

impl From<CarError> for DecodeError {
    #[cold]
    fn from(error: CarError) -> Self {
        Self::new(Reason::BadCar, error.to_string())
    }
}

/// Names the field that an error of the cursor is about.
#[inline]
pub(crate) fn field<T>(name: &'static str, read: Result<T, CborError>) -> Result<T, DecodeError> {
    read.map_err(|error| DecodeError::cbor(name, error))
}
