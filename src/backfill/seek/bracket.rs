//! The interval of cursors that still comes into question, and where to look into it next.
//!
//! Interpolation between its ends, as they lie in time, with two safeguards: an end that stays weighs less each time (the Illinois
//! rule), and no guess is so far off the middle that halving could not make up for it in the steps that are left (the
//! projection of the ITP method). So a smooth stream takes a few steps and none takes more than one step more than halving.

/// A cursor behind which the frames are early enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Low {
    pub cursor: u64,
    /// The time of what follows; `None` only for the oldest.
    pub time: Option<u64>,
}

/// A cursor behind which the frames are too late, or there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct High {
    pub cursor: u64,
    /// The first number behind it; `None`: it is taken to be above the head.
    pub first: Option<u64>,
    pub time: Option<u64>,
}

/// Frames that are not worth another probe.
pub(super) const FEW: f64 = 64.0;
/// How many more steps than halving takes.
const MORE_STEPS: i32 = 1;

/// How the interval has been narrowed so far.
#[derive(Debug, Clone, Copy)]
pub(super) struct Narrowing {
    /// The width in frames that is narrow enough.
    pub enough: f64,
    steps_left: i32,
    /// Weights of the ends' distances in time.
    low_weight: f64,
    high_weight: f64,
    last_was_low: Option<bool>,
}

#[expect(clippy::cast_precision_loss, reason = "a guess is no exact number")]
pub(super) fn float(number: u64) -> f64 {
    number as f64
}

/// A float of at least 0 as a number.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "casts of floats saturate"
)]
pub(super) fn whole(float: f64) -> u64 {
    float.round() as u64
}

/// The width of an interval, in frames.
pub(super) fn width(low: Low, high: High) -> f64 {
    float(high.cursor.saturating_sub(low.cursor))
}

impl Narrowing {
    /// For an interval of `width` frames, to be narrowed to a `share` of it.
    pub(super) fn new(width: f64, share: f64) -> Self {
        let enough = (width * share).max(FEW);
        let mut halvings = 0;
        let mut halved = width;
        while halved > enough {
            halved /= 2.0;
            halvings += 1;
        }
        Self {
            enough,
            steps_left: halvings + MORE_STEPS,
            low_weight: 1.0,
            high_weight: 1.0,
            last_was_low: None,
        }
    }

    /// An end moved.
    pub(super) fn moved(&mut self, low: bool) {
        self.steps_left -= 1;
        let again = self.last_was_low == Some(low);
        (self.low_weight, self.high_weight) = match (again, low) {
            (false, _) => (1.0, 1.0),
            (true, true) => (1.0, self.high_weight / 2.0),
            (true, false) => (self.low_weight / 2.0, 1.0),
        };
        self.last_was_low = Some(low);
    }

    /// The cursor to ask at next, strictly within; `aim` is the time that it should have, `rate` frames per microsecond
    /// if the upper end's time is not known.
    pub(super) fn guess(&self, low: Low, high: High, aim: u64, rate: Option<f64>) -> u64 {
        let width = width(low, high);
        let middle = width / 2.0;
        let guess = self.interpolated(low, high, aim, rate).unwrap_or(middle);
        let reach = (self.enough / 2.0 * 2f64.powi(self.steps_left) - middle).max(0.0);
        let projected = guess.clamp(middle - reach, middle + reach);
        let offset = projected.clamp(1.0, (width - 1.0).max(1.0));
        low.cursor.saturating_add(whole(offset))
    }

    /// In frames above the lower end.
    fn interpolated(&self, low: Low, high: High, aim: u64, rate: Option<f64>) -> Option<f64> {
        let below = float(aim.saturating_sub(low.time?));
        match (high.time, rate) {
            (Some(time), _) => {
                let below = below * self.low_weight;
                let above = float(time.saturating_sub(aim)) * self.high_weight;
                (below + above > 0.0).then(|| width(low, high) * below / (below + above))
            }
            (None, Some(rate)) => Some(below * rate),
            (None, None) => None,
        }
    }
}

/// Frames per microsecond between two places.
pub(super) fn rate(from: (u64, Option<u64>), to: (u64, Option<u64>)) -> Option<f64> {
    let frames = float(to.0.checked_sub(from.0)?);
    let micros = float(to.1?.checked_sub(from.1?)?);
    (frames > 0.0 && micros > 0.0).then(|| frames / micros)
}
