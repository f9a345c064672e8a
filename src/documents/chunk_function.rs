//! The function `chunk`, for DataFusion.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::{DataType, Field, FieldRef, Int64Type};
use datafusion::common::{Result, ScalarValue, exec_datafusion_err, plan_datafusion_err, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};

use super::chunks::{ChunkSize, chunks};
use super::policy::UnreadPolicy;
use super::values::{lists, returned, text_type, texts};
use crate::tokens::tokenizer::Encoding;

const NAME: &str = "chunk";

#[derive(Debug)]
pub(super) struct ChunkFunction {
    policy: UnreadPolicy,
    signature: Signature,
}

impl ChunkFunction {
    pub(super) fn new(policy: UnreadPolicy) -> Self {
        ChunkFunction { policy, signature: Signature::user_defined(Volatility::Immutable) }
    }
}

impl PartialEq for ChunkFunction {
    fn eq(&self, other: &Self) -> bool {
        self.policy.is_same(&other.policy)
    }
}

impl Eq for ChunkFunction {}

impl Hash for ChunkFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        NAME.hash(state);
    }
}

impl ScalarUDFImpl for ChunkFunction {
    fn name(&self) -> &'static str {
        NAME
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, given: &[DataType]) -> Result<Vec<DataType>> {
        let [text, tokens, overlap, model @ ..] = given else {
            return plan_err!(
                "chunk takes a text, the tokens of a chunk and the tokens that neighbours share"
            );
        };
        let number = |given: &DataType| match given {
            DataType::Null => Ok(DataType::Int64),
            given if given.is_integer() => Ok(DataType::Int64),
            given => plan_err!("chunk: {given} is no number of tokens"),
        };
        let mut types = vec![text_type(NAME, text)?, number(tokens)?, number(overlap)?];
        match model {
            [] => {}
            [model] => types.push(text_type(NAME, model)?),
            _ => return plan_err!("chunk takes a text, two numbers of tokens and a model, and no more"),
        }
        Ok(types)
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true))))
    }

    /// Checks arguments that are single values when the query is planned, before it reads anything.
    fn return_field_from_args(&self, arguments: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let number = |index: usize| match arguments.scalar_arguments.get(index) {
            Some(Some(ScalarValue::Int64(number))) => *number,
            _ => None,
        };
        if let (Some(tokens), Some(overlap)) = (number(1), number(2)) {
            ChunkSize::new(tokens, overlap).map_err(|message| plan_datafusion_err!("{message}"))?;
        }
        if let Some(Some(model)) = arguments.scalar_arguments.get(3)
            && let Some(Some(model)) = model.try_as_str()
        {
            encoding_of(model).map_err(|message| plan_datafusion_err!("{message}"))?;
        }
        Ok(Arc::new(Field::new(NAME, self.return_type(&[])?, true)))
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        returned(&arguments.args, |columns| {
            let models = columns.get(3).map(texts).transpose()?;
            let sizes =
                columns[1].as_primitive::<Int64Type>().iter().zip(columns[2].as_primitive::<Int64Type>());
            let mut rows = Vec::new();
            for (index, (text, size)) in texts(&columns[0])?.into_iter().zip(sizes).enumerate() {
                let model = models.as_ref().map(|models| models[index]);
                rows.push(self.row(text, size, model)?);
            }
            lists(rows)
        })
    }
}

impl ChunkFunction {
    /// Returns the chunks of one text. `model` is `None` where the argument is missing.
    fn row<'a>(
        &self,
        text: Option<&'a str>,
        (tokens, overlap): (Option<i64>, Option<i64>),
        model: Option<Option<&str>>,
    ) -> Result<Option<Vec<&'a str>>> {
        let (Some(text), Some(tokens), Some(overlap)) = (text, tokens, overlap) else {
            return Ok(None);
        };
        let encoding = match model {
            None => Encoding::usual(),
            Some(None) => return Ok(None),
            Some(Some(model)) => encoding_of(model).map_err(|message| exec_datafusion_err!("{message}"))?,
        };
        let size = ChunkSize::new(tokens, overlap).map_err(|message| exec_datafusion_err!("{message}"))?;
        chunks(text, size, encoding).map(Some).or_else(|unread| self.policy.null(unread))
    }
}

fn encoding_of(model: &str) -> std::result::Result<Encoding, String> {
    Encoding::of(model).ok_or_else(|| {
        format!(
            "chunk: the encoding of the model {model:?} is unknown; without a model, tokens are counted as \
             OpenAI's newer models do"
        )
    })
}
