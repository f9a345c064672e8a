//! Keys set on the command line, which override those of the job file.

use toml::{Table, Value};

use super::error::nearest;

/// The section whose subsections are named by the user.
const PROVIDER: &str = "provider";

/// Sets one key, written as `provider.openai.model=gpt-…`. The value is parsed as TOML if possible, else taken as
/// text. A number in the path is an index into the `[[step]]`s, from 0. A missing section is added, but not a missing
/// provider: a misspelt name would create a new one.
///
/// # Errors
/// With a message that says what is wrong.
pub(super) fn set(table: &mut Table, written: &str) -> Result<(), String> {
    let (path, value) = written
        .split_once('=')
        .ok_or_else(|| format!("--set {written:?} has no value; write it as KEY=VALUE"))?;
    let keys: Vec<&str> = path.split('.').map(str::trim).collect();
    if keys.iter().any(|key| key.is_empty()) {
        return Err(format!("--set {written:?} names no key; write it as section.key=value"));
    }
    let (last, parents) = keys.split_last().ok_or_else(|| format!("--set {written:?} names no key"))?;
    let Some((first, rest)) = parents.split_first() else {
        table.insert((*last).to_owned(), value_of(value));
        return Ok(());
    };
    if let (PROVIDER, Some(name)) = (*first, rest.first()) {
        provider(table, name).map_err(|what| format!("--set {written:?}: {what}"))?;
    }
    let mut place = table.entry(*first).or_insert_with(|| Value::Table(Table::new()));
    for key in rest {
        place = child(place, key).map_err(|what| format!("--set {written:?}: {what}"))?;
    }
    let place = child(place, last).map_err(|what| format!("--set {written:?}: {what}"))?;
    *place = value_of(value);
    Ok(())
}

/// Checks that there is a provider of this name.
fn provider(table: &Table, name: &str) -> Result<(), String> {
    let known = table.get(PROVIDER).and_then(Value::as_table);
    let names: Vec<&str> = known.iter().flat_map(|known| known.keys()).map(String::as_str).collect();
    if names.contains(&name) {
        return Ok(());
    }
    Err(match nearest(name, names.iter().copied()) {
        Some(near) => format!("there is no [provider.{name}]; did you mean {near:?}?"),
        None if names.is_empty() => format!("there is no [provider.{name}], nor any other"),
        None => format!("there is no [provider.{name}]; the job has {}", names.join(", ")),
    })
}

fn child<'a>(place: &'a mut Value, key: &str) -> Result<&'a mut Value, String> {
    match place {
        Value::Table(table) => Ok(table.entry(key).or_insert_with(|| Value::Table(Table::new()))),
        Value::Array(array) => {
            let count = array.len();
            let at = key.parse::<usize>().ok().and_then(|at| array.get_mut(at));
            at.ok_or_else(|| {
                format!("there is no number {key:?} among {count}, which are counted from 0, as in step.0.prompt=…")
            })
        }
        _ => Err(format!("what stands there is a value and has no {key:?} in it")),
    }
}

fn value_of(text: &str) -> Value {
    let text = text.trim();
    let parsed = toml::from_str::<Table>(&format!("value = {text}")).ok();
    parsed.and_then(|mut table| table.remove("value")).unwrap_or_else(|| Value::String(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(written: &str) -> Result<Table, String> {
        let mut table: Table =
            toml::from_str("app_id = \"a\"\n[provider.p]\nmodel = \"m\"\n[[step]]\nprompt = \"x\"").unwrap();
        set(&mut table, written).map(|()| table)
    }

    #[test]
    fn a_key_is_set_wherever_it_stands() {
        assert_eq!(with("app_id=b").unwrap()["app_id"].as_str(), Some("b"));
        let table = with("provider.p.model = gpt-4o").unwrap();
        assert_eq!(table["provider"]["p"]["model"].as_str(), Some("gpt-4o"));
        assert_eq!(with("batch.max_rows=7").unwrap()["batch"]["max_rows"].as_integer(), Some(7));
        assert_eq!(with("step.0={ output = \"o\" }").unwrap()["step"][0]["output"].as_str(), Some("o"));
        assert_eq!(with("step.0.prompt=a=b").unwrap()["step"][0]["prompt"].as_str(), Some("a=b"));
        assert_eq!(
            with("provider.p.headers={ a = \"b\" }").unwrap()["provider"]["p"]["headers"]["a"].as_str(),
            Some("b")
        );
    }

    #[test]
    fn what_cannot_be_set_is_an_error() {
        for (written, what) in [
            ("app_id", "KEY=VALUE"),
            ("=x", "names no key"),
            ("a..b=1", "names no key"),
            ("app_id.x=1", "a value and has no \"x\""),
            ("app_id.x.y=1", "a value and has no \"x\""),
            ("step.3.prompt=x", "no number \"3\" among 1"),
            ("step.1={ prompt = \"x\" }", "no number \"1\" among 1"),
            ("step.prompt.x=1", "no number \"prompt\""),
            ("step.prompt=1", "no number \"prompt\""),
            ("provider.pp.model=x", "no [provider.pp]; did you mean \"p\"?"),
            ("provider.other.headers.a=x", "no [provider.other]; the job has p"),
        ] {
            let error = with(written).unwrap_err();
            assert!(error.contains("--set") && error.contains(what), "{written}: {error}");
        }
    }

    #[test]
    fn a_section_that_the_file_leaves_out_is_made() {
        assert_eq!(with("batch.max_rows=7").unwrap()["batch"]["max_rows"].as_integer(), Some(7));
        assert_eq!(
            with("provider.p.headers.a=b").unwrap()["provider"]["p"]["headers"]["a"].as_str(),
            Some("b")
        );
        let whole = with("provider.q={ base_url = \"simulator\", model = \"m\" }").unwrap();
        assert_eq!(whole["provider"]["q"]["model"].as_str(), Some("m"));
    }
}
