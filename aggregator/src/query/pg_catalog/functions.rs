//! Functions of PostgreSQL about sessions and catalogs.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field};
use datafusion::common::{DataFusionError, ScalarValue};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature,
    Volatility,
};

use super::{NAMESPACES, PgType, Relations};
use crate::query::SessionSettings;
use crate::query::session::{DATABASE, PUBLIC};

/// Clients parse it.
const VERSION: &str = concat!(
    "PostgreSQL 16.6 (Tributary ",
    env!("CARGO_PKG_VERSION"),
    ")"
);

/// What they answer from.
struct Context {
    relations: Arc<Relations>,
    settings: SessionSettings,
}

type Body = fn(&Context, &[ScalarValue]) -> Answer;

enum Answer {
    Text(Option<String>),
    Number(Option<i64>),
    Truth(bool),
    Texts(Vec<String>),
}

struct CatalogFunction {
    name: &'static str,
    returns: DataType,
    body: Body,
    context: Arc<Context>,
    signature: Signature,
}

use Answer::{Number, Text, Texts, Truth};

/// By name, with the type of the answer.
#[rustfmt::skip]
const TEXTS: [(&str, Body); 27] = [
    ("version", |_, _| Text(Some(VERSION.to_owned()))),
    ("current_user", |context, _| Text(Some(context.settings.user.clone()))),
    ("session_user", |context, _| Text(Some(context.settings.user.clone()))),
    ("user", |context, _| Text(Some(context.settings.user.clone()))),
    ("current_role", |context, _| Text(Some(context.settings.user.clone()))),
    ("current_schema", |_, _| Text(Some(PUBLIC.to_owned()))),
    ("current_database", |_, _| Text(Some(DATABASE.to_owned()))),
    ("current_catalog", |_, _| Text(Some(DATABASE.to_owned()))),
    ("current_setting", |context, arguments| {
        Text(text(arguments, 0).and_then(|name| setting(context, &name)))
    }),
    ("pg_get_userbyid", |context, _| Text(Some(context.settings.user.clone()))),
    ("format_type", |_, arguments| Text(number(arguments, 0).map(type_name))),
    ("regclass_name", |context, arguments| {
        let oid = number(arguments, 0);
        Text(oid.map(|oid| context.relations.name_of(oid).unwrap_or_else(|| oid.to_string())))
    }),
    ("regnamespace_name", |_, arguments| Text(number(arguments, 0).map(namespace_name))),
    ("obj_description", |_, _| Text(None)),
    ("col_description", |_, _| Text(None)),
    ("shobj_description", |_, _| Text(None)),
    ("pg_get_expr", |_, _| Text(None)),
    ("pg_get_viewdef", |_, _| Text(None)),
    ("pg_get_indexdef", |_, _| Text(None)),
    ("pg_get_constraintdef", |_, _| Text(None)),
    ("pg_get_function_result", |_, _| Text(None)),
    ("pg_get_function_arguments", |_, _| Text(None)),
    ("pg_size_pretty", |_, arguments| Text(number(arguments, 0).map(size))),
    ("pg_encoding_to_char", |_, _| Text(Some("UTF8".to_owned()))),
    ("quote_ident", |_, arguments| Text(text(arguments, 0).map(|name| quoted(&name)))),
    ("inet_server_addr", |_, _| Text(None)),
    ("inet_client_addr", |_, _| Text(None)),
];
#[rustfmt::skip]
const NUMBERS: [(&str, Body); 7] = [
    ("to_regclass", |context, arguments| {
        Number(text(arguments, 0).and_then(|name| context.relations.oid_of(&name)))
    }),
    ("to_regtype", |_, arguments| {
        Number(text(arguments, 0).and_then(|name| PgType::by_name(&name)).map(|known| known.oid))
    }),
    ("pg_table_size", |_, _| Number(None)),
    ("pg_relation_size", |_, _| Number(None)),
    ("pg_total_relation_size", |_, _| Number(None)),
    ("pg_backend_pid", |_, _| Number(Some(0))),
    ("txid_current", |_, _| Number(Some(0))),
];
#[rustfmt::skip]
const TRUTHS: [(&str, Body); 9] = [
    ("pg_table_is_visible", |_, _| Truth(true)),
    ("pg_type_is_visible", |_, _| Truth(true)),
    ("pg_function_is_visible", |_, _| Truth(true)),
    ("pg_relation_is_publishable", |_, _| Truth(false)),
    ("pg_is_in_recovery", |_, _| Truth(false)),
    ("has_table_privilege", |_, _| Truth(true)),
    ("has_schema_privilege", |_, _| Truth(true)),
    ("has_database_privilege", |_, _| Truth(true)),
    ("has_column_privilege", |_, _| Truth(true)),
];

#[rustfmt::skip]
const LISTS: [(&str, Body); 2] = [
    ("parse_ident", |_, arguments| {
        Texts(text(arguments, 0).map(|name| parsed(&name)).unwrap_or_default())
    }),
    ("current_schemas", |_, _| Texts(vec![PUBLIC.to_owned()])),
];

/// All of them, for one session and view.
pub(in crate::query) fn functions(
    relations: &Arc<Relations>,
    settings: &SessionSettings,
) -> Vec<ScalarUDF> {
    let context = Context {
        relations: Arc::clone(relations),
        settings: settings.clone(),
    };
    let context = Arc::new(context);
    let texts = TEXTS.iter().map(|entry| (entry, DataType::Utf8));
    let numbers = NUMBERS.iter().map(|entry| (entry, DataType::Int64));
    let truths = TRUTHS.iter().map(|entry| (entry, DataType::Boolean));
    let of_texts = DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true)));
    let lists = LISTS.iter().map(|entry| (entry, of_texts.clone()));
    let all = texts
        .chain(numbers)
        .chain(truths)
        .chain(lists)
        .map(|((name, body), returns)| {
            let any = vec![TypeSignature::Nullary, TypeSignature::VariadicAny];
            let signature = Signature::one_of(any, Volatility::Stable);
            let context = Arc::clone(&context);
            ScalarUDF::from(CatalogFunction {
                name,
                returns,
                body: *body,
                context,
                signature,
            })
        });
    all.collect()
}

impl ScalarUDFImpl for CatalogFunction {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType, DataFusionError> {
        Ok(self.returns.clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue, DataFusionError> {
        let ScalarFunctionArgs {
            args, number_rows, ..
        } = args;
        let constant = args.iter().map(|argument| match argument {
            ColumnarValue::Scalar(value) => Some(value.clone()),
            ColumnarValue::Array(_) => None,
        });
        if let Some(constant) = constant.collect::<Option<Vec<_>>>() {
            return Ok(ColumnarValue::Scalar(self.call(&constant)));
        }
        let arrays = ColumnarValue::values_to_arrays(&args)?;
        let row = |at| {
            let values = arrays
                .iter()
                .map(|array| ScalarValue::try_from_array(array, at));
            Ok(self.call(&values.collect::<Result<Vec<_>, DataFusionError>>()?))
        };
        let rows = (0..number_rows)
            .map(row)
            .collect::<Result<Vec<_>, DataFusionError>>()?;
        Ok(ColumnarValue::Array(ScalarValue::iter_to_array(rows)?))
    }
}

impl CatalogFunction {
    fn call(&self, arguments: &[ScalarValue]) -> ScalarValue {
        match (self.body)(&self.context, arguments) {
            Text(value) => ScalarValue::Utf8(value),
            Number(value) => ScalarValue::Int64(value),
            Truth(value) => ScalarValue::Boolean(Some(value)),
            Texts(values) => {
                let values: Vec<ScalarValue> = values.into_iter().map(ScalarValue::from).collect();
                ScalarValue::List(ScalarValue::new_list_nullable(&values, &DataType::Utf8))
            }
        }
    }
}

impl fmt::Debug for CatalogFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Within one statement, and two never meet, the name tells all.
impl PartialEq for CatalogFunction {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for CatalogFunction {}

impl Hash for CatalogFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

fn text(arguments: &[ScalarValue], at: usize) -> Option<String> {
    arguments.get(at)?.try_as_str()?.map(str::to_owned)
}

fn number(arguments: &[ScalarValue], at: usize) -> Option<i64> {
    match arguments.get(at)?.cast_to(&DataType::Int64) {
        Ok(ScalarValue::Int64(value)) => value,
        _ => None,
    }
}

fn setting(context: &Context, name: &str) -> Option<String> {
    let value = match name.to_lowercase().as_str() {
        "server_version" => "16.6",
        "server_version_num" => "160006",
        "server_encoding" | "client_encoding" => "UTF8",
        "standard_conforming_strings" | "transaction_read_only" => "on",
        "search_path" => PUBLIC,
        "datestyle" => "ISO, MDY",
        "max_index_keys" => "32",
        "timezone" => &context.settings.time_zone,
        "application_name" => &context.settings.application_name,
        _ => return None,
    };
    Some(value.to_owned())
}

fn type_name(oid: i64) -> String {
    PgType::by_oid(oid)
        .map_or("???", |known| known.title)
        .to_owned()
}

fn namespace_name(oid: i64) -> String {
    let known = NAMESPACES.iter().find(|(known, _)| *known == oid);
    known.map_or_else(|| oid.to_string(), |(_, name)| (*name).to_owned())
}

fn size(bytes: i64) -> String {
    let units = ["bytes", "kB", "MB", "GB", "TB"];
    let (mut value, mut unit) = (bytes, 0);
    while value >= 10_240 && unit + 1 < units.len() {
        value /= 1_024;
        unit += 1;
    }
    format!("{value} {}", units[unit])
}

fn quoted(name: &str) -> String {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if name.chars().all(plain) && !name.starts_with(|c: char| c.is_ascii_digit()) {
        return name.to_owned();
    }
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// The parts of a name as SQL writes it.
fn parsed(name: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut quoted = false;
    let mut chars = name.chars().peekable();
    while let Some(c) = chars.next() {
        let last = parts.last_mut().expect("it begins with one");
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                last.push('"');
            }
            '"' => quoted = !quoted,
            '.' if !quoted => parts.push(String::new()),
            c if quoted => last.push(c),
            c => last.extend(c.to_lowercase()),
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_and_parsed_back() {
        for name in ["fire", "Fire", "a b", "a.b", "1a", "say \"x\"", ""] {
            let written = quoted(name);
            assert_eq!(
                written == name,
                name == "fire" || name.is_empty(),
                "{written}"
            );
            assert_eq!(parsed(&format!("public.{written}")), ["public", name]);
        }
        assert_eq!(parsed("Public.Fire"), ["public", "fire"]);
    }

    #[test]
    fn sizes_are_rounded_down() {
        assert_eq!(size(10_239), "10239 bytes");
        assert_eq!(size(10_240), "10 kB");
        assert_eq!(size(3 << 40), "3072 GB");
    }
}
