//! Keys that are set on the command line, over those of the job file.

use toml::{Table, Value};

/// Sets one key, written as `provider.openai.model=gpt-…`. The value is TOML where it parses as such, else a
/// text. A number in the path counts the `[[step]]`s, from 0.
///
/// # Errors
/// What is wrong with it.
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
    let mut place = table.entry(*first).or_insert_with(|| Value::Table(Table::new()));
    for key in rest {
        place = child(place, key).ok_or_else(|| no_place(written, key))?;
    }
    match place {
        Value::Table(table) => {
            table.insert((*last).to_owned(), value_of(value));
            Ok(())
        }
        _ => Err(no_place(written, last)),
    }
}

fn child<'a>(place: &'a mut Value, key: &str) -> Option<&'a mut Value> {
    match place {
        Value::Table(table) => Some(table.entry(key).or_insert_with(|| Value::Table(Table::new()))),
        Value::Array(array) => array.get_mut(key.parse::<usize>().ok()?),
        _ => None,
    }
}

fn no_place(written: &str, key: &str) -> String {
    format!(
        "--set {written:?}: there is nothing to set at {key:?}; steps are counted from 0, as in step.0.prompt=…"
    )
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
        assert_eq!(with("step.0.prompt=a=b").unwrap()["step"][0]["prompt"].as_str(), Some("a=b"));
        assert_eq!(
            with("provider.p.headers={ a = \"b\" }").unwrap()["provider"]["p"]["headers"]["a"].as_str(),
            Some("b")
        );
    }

    #[test]
    fn what_cannot_be_set_is_told() {
        for written in ["app_id", "=x", "a..b=1", "app_id.x=1", "step.3.prompt=x", "step.prompt.x=1"] {
            assert!(with(written).unwrap_err().contains("--set"), "{written}");
        }
    }
}
