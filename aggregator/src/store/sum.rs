//! Sums of the values of a field: exact of ints, of floats in one order. And the extremes of floats.

use shared::batch::Values;

/// The sum of some values of a numeric field.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Sum {
    /// Exact: 128 bits hold the sum of 2^64 ints.
    Int(i128),
    /// Added up in double precision, from 0.0, in the order of the rows. A NaN is the plain one: its sign
    /// and payload depend on the machine.
    Float(f64),
}

impl Sum {
    /// `None` of bools and texts.
    pub(super) fn of(values: &Values) -> Option<Self> {
        match values {
            Values::Float(floats) => Some(Self::of_floats(floats)),
            Values::Int(ints) => Some(Self::of_ints(ints)),
            Values::Bool(_) | Values::Text(_) => None,
        }
    }

    pub(super) fn of_floats(floats: &[f64]) -> Self {
        Self::plain(floats.iter().fold(0.0, |sum, float| sum + float))
    }

    pub(super) fn of_ints(ints: &[i64]) -> Self {
        Self::Int(ints.iter().map(|int| i128::from(*int)).sum())
    }

    /// With what comes behind it.
    #[must_use]
    pub fn plus(self, later: Self) -> Self {
        match (self, later) {
            (Self::Int(a), Self::Int(b)) => Self::Int(a + b),
            (a, b) => Self::plain(a.as_float() + b.as_float()),
        }
    }

    /// The nearest float.
    pub fn as_float(self) -> f64 {
        match self {
            Self::Int(int) => int as f64,
            Self::Float(float) => float,
        }
    }

    fn plain(float: f64) -> Self {
        Self::Float(if float.is_nan() { f64::NAN } else { float })
    }
}

/// Least and greatest found side by side, so that several values are compared at once.
const LANES: usize = 8;

/// The least and the greatest of some floats in total order, unless one is NaN: of these the order of
/// numbers, which is found sooner, tells nothing.
pub(super) fn plain_extremes(floats: &[f64]) -> Option<(f64, f64)> {
    let (mut least, mut most) = ([f64::INFINITY; LANES], [f64::NEG_INFINITY; LANES]);
    // Of NaN nothing is true.
    let mut are_numbers = true;
    let (whole, rest) = floats.as_chunks::<LANES>();
    let mut take = |at: usize, float: f64| {
        are_numbers &= !float.is_nan();
        least[at] = if float < least[at] { float } else { least[at] };
        most[at] = if float > most[at] { float } else { most[at] };
    };
    for lanes in whole {
        (0..LANES).for_each(|at| take(at, lanes[at]));
    }
    let places = 0..LANES;
    places.zip(rest).for_each(|(at, float)| take(at, *float));
    let least = least.into_iter().fold(f64::INFINITY, f64::min);
    let most = most.into_iter().fold(f64::NEG_INFINITY, f64::max);
    let zero = |zero: f64| floats.iter().any(|one| one.to_bits() == zero.to_bits());
    // Nor does it tell which zero is less.
    let least = if least == 0.0 && zero(-0.0) {
        -0.0
    } else {
        least
    };
    let most = if most == 0.0 && zero(0.0) { 0.0 } else { most };
    (are_numbers && least <= most).then_some((least, most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extremes_are_those_of_the_total_order_unless_one_is_nan() {
        let all = [
            3.0,
            -1.5,
            f64::INFINITY,
            1e-300,
            2.0,
            7.0,
            -9.0,
            4.0,
            8.0,
            5.0,
        ];
        for len in 1..=all.len() {
            let some = &all[..len];
            let least = some.iter().copied().min_by(f64::total_cmp);
            let most = some.iter().copied().max_by(f64::total_cmp);
            assert_eq!(plain_extremes(some), least.zip(most));
            for odd in [f64::NAN, -f64::NAN] {
                let with: Vec<f64> = some.iter().copied().chain([odd]).collect();
                assert_eq!(plain_extremes(&with), None);
            }
        }
        assert_eq!(plain_extremes(&[]), None);
        let bits = |(least, most): (f64, f64)| (least.to_bits(), most.to_bits());
        for some in [
            [0.0, -0.0, 0.0],
            [0.0, 0.0, 0.0],
            [-0.0, -0.0, -0.0],
            [1.0, 0.0, -0.0],
            [1.0, 0.0, 2.0],
            [-1.0, 0.0, -0.0],
            [-1.0, -0.0, -2.0],
        ] {
            let least = some.into_iter().min_by(f64::total_cmp);
            let most = some.into_iter().max_by(f64::total_cmp);
            let extremes = plain_extremes(&some);
            assert_eq!(extremes.map(bits), least.zip(most).map(bits), "{some:?}");
        }
    }

    #[test]
    fn ints_do_not_overflow_and_floats_are_added_in_order() {
        let ints = Sum::of(&Values::Int(vec![i64::MIN; 3])).unwrap();
        assert_eq!(ints, Sum::Int(3 * i128::from(i64::MIN)));
        assert_eq!(
            ints.plus(Sum::Int(5)),
            Sum::Int(3 * i128::from(i64::MIN) + 5)
        );
        let floats = Sum::of_floats(&[1e16, 1.0, 1.0]);
        assert_eq!(floats, Sum::Float(1e16));
        assert_eq!(Sum::of_floats(&[1.0, 1.0, 1e16]), Sum::Float(1e16 + 2.0));
        assert_eq!(Sum::Int(1).plus(Sum::Float(0.5)), Sum::Float(1.5));
        assert_eq!(Sum::of(&Values::Bool(vec![true])), None);
    }

    #[test]
    fn a_nan_of_any_kind_is_the_plain_one() {
        let odd = f64::from_bits(0xfff8_0000_0000_1234);
        for floats in [
            vec![odd],
            vec![1.0, odd, 2.0],
            vec![f64::INFINITY, f64::NEG_INFINITY],
        ] {
            let Sum::Float(sum) = Sum::of_floats(&floats) else {
                panic!("floats");
            };
            assert_eq!(sum.to_bits(), f64::NAN.to_bits());
        }
        assert_eq!(Sum::of_floats(&[-0.0]).as_float().to_bits(), 0);
    }
}
