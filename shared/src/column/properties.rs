//! Properties of every column: what goes in comes out, bit by bit, for exactly its price; and any
//! bytes give an error or values, never more than asked for.

use proptest::prelude::*;

use super::*;

/// Integers of every size, small ones often.
pub(crate) fn any_int() -> impl Strategy<Value = i64> + Clone {
    prop_oneof![
        4 => -100..100_i64,
        2 => (0..63_u32, any::<i64>()).prop_map(|(shift, value)| value >> shift),
        1 => prop_oneof![Just(i64::MIN), Just(i64::MAX), Just(i64::MIN + 1)],
    ]
}

/// Floats as sensors print them, and every other pattern of bits.
pub(crate) fn any_float() -> impl Strategy<Value = f64> + Clone {
    prop_oneof![
        6 => (any::<i32>(), 0..4_i32).prop_map(|(m, e)| f64::from(m) / 10_f64.powi(e)),
        2 => any::<u64>().prop_map(f64::from_bits),
        1 => prop_oneof![Just(-0.0), Just(f64::NAN), Just(f64::NEG_INFINITY), Just(5e-324)],
    ]
}

/// Runs of one step with some noise, the usual shape of counters and times.
pub(crate) fn any_ints() -> impl Strategy<Value = Vec<i64>> {
    let walk = (
        any_int(),
        any_int(),
        prop::collection::vec(0..3_i64, 0..200),
    );
    let walk = walk.prop_map(|(start, step, noise)| {
        let place = |(i, noise): (usize, i64)| {
            start
                .wrapping_add(step.wrapping_mul(i64::try_from(i).unwrap()))
                .wrapping_add(noise)
        };
        noise.into_iter().enumerate().map(place).collect()
    });
    prop_oneof![prop::collection::vec(any_int(), 0..200), walk]
}

fn any_values() -> impl Strategy<Value = Values> {
    prop_oneof![
        any_ints().prop_map(Values::Int),
        prop::collection::vec(any_float(), 0..200).prop_map(Values::Float),
        prop::collection::vec(any::<bool>(), 0..200).prop_map(Values::Bool),
        prop::collection::vec("[ab]{0,2}|.{0,20}", 0..100).prop_map(Values::Text),
    ]
}

fn bits(values: &Values) -> Values {
    match values {
        Values::Float(values) => Values::Int(
            values
                .iter()
                .map(|value| value.to_bits().cast_signed())
                .collect(),
        ),
        other => other.clone(),
    }
}

proptest! {
    #[test]
    fn values_are_read_back_for_their_price(values in any_values()) {
        let mut out = Vec::new();
        encode_values(&values, &mut Scratch::default(), &mut out);
        let mut reader = Reader::new(&out);
        let mut budget = Budget::new(price(&values));
        let back = decode_values(&mut reader, values.field_type(), values.len(), &mut budget);
        prop_assert_eq!(bits(&back.unwrap()), bits(&values));
        prop_assert!(reader.is_empty());
        prop_assert_eq!(budget.left(), 0);
    }

    #[test]
    fn what_was_encoded_before_makes_no_difference(
        columns in prop::collection::vec(any_values(), 1..5),
    ) {
        let mut scratch = Scratch::default();
        for values in columns {
            let (mut alone, mut out) = (Vec::new(), Vec::new());
            let codec = put_values(&values, &mut Scratch::default(), &mut alone);
            prop_assert_eq!(put_values(&values, &mut scratch, &mut out), codec);
            prop_assert_eq!(out, alone);
        }
    }

    #[test]
    fn times_are_read_back_for_their_price(times in any_ints(), base in any_int(), unit in 1..5_u32) {
        let unit = 10_i64.pow(unit);
        let times: Vec<i64> = times.into_iter().map(|time| time.wrapping_mul(unit)).collect();
        let mut out = Vec::new();
        encode_times(&times, base, &mut Scratch::default(), &mut out);
        let mut reader = Reader::new(&out);
        let mut budget = Budget::new(times.len() * TIME_PRICE);
        let back = decode_times(&mut reader, times.len(), base, &mut budget);
        prop_assert_eq!(back.unwrap(), times);
        prop_assert!(reader.is_empty());
        prop_assert_eq!(budget.left(), 0);
    }

    #[test]
    fn any_bytes_are_an_error_or_as_many_values_as_asked_for(
        bytes in prop::collection::vec(prop_oneof![0..4_u8, 16..50_u8, any::<u8>()], 0..100),
        count in prop_oneof![0..20_usize, Just(1000)],
        bytes_max in prop_oneof![Just(500_usize), Just(100_000)],
    ) {
        for field_type in [FieldType::Float, FieldType::Int, FieldType::Bool, FieldType::Text] {
            let mut budget = Budget::new(bytes_max);
            let values = decode_values(&mut Reader::new(&bytes), field_type, count, &mut budget);
            if let Ok(values) = values {
                prop_assert_eq!(values.len(), count);
                prop_assert_eq!(price(&values), bytes_max - budget.left());
            }
        }
        let times = decode_times(&mut Reader::new(&bytes), count, -1, &mut Budget::new(bytes_max));
        prop_assert!(times.is_err() || times.is_ok_and(|times| times.len() == count));
    }
}
