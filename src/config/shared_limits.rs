//! The limits of providers that share one quota.

use super::check::Checker;
use super::error::ConfigError;
use super::job::Provider;

impl Checker<'_> {
    /// Gives all providers whose sections name the same `limits` the limits that any of them states.
    pub(super) fn share_limits(&self, providers: &mut [Provider]) -> Result<(), ConfigError> {
        self.share(providers, "requests_per_minute", |own| &mut own.requests_per_minute)?;
        self.share(providers, "tokens_per_minute", |own| &mut own.token_limits.total)?;
        self.share(providers, "input_tokens_per_minute", |own| &mut own.token_limits.input)?;
        self.share(providers, "output_tokens_per_minute", |own| &mut own.token_limits.output)?;
        self.share(providers, "token_charge", |own| &mut own.token_charge)?;
        let has_both = |own: &&Provider| {
            let limits = own.token_limits;
            limits.total.is_some() && (limits.input.is_some() || limits.output.is_some())
        };
        match providers.iter().find(has_both) {
            None => Ok(()),
            Some(own) => Err(self.wrong(
                format!("provider.{}.limits", own.name),
                "names a quota for which one section states tokens_per_minute, and another the tokens of prompts or \
                 answers; state them in one way",
            )),
        }
    }

    /// Gives all providers with the same `limits` the value that any of them has in a field.
    fn share<T: Copy + PartialEq>(
        &self,
        providers: &mut [Provider],
        key: &str,
        field: impl Fn(&mut Provider) -> &mut Option<T>,
    ) -> Result<(), ConfigError> {
        for at in 0..providers.len() {
            let Some(value) = *field(&mut providers[at]) else { continue };
            let Some(group) = providers[at].limits.clone() else { continue };
            let first = providers[at].name.clone();
            for other in providers.iter_mut().filter(|other| other.limits.as_ref() == Some(&group)) {
                if field(other).replace(value).is_some_and(|known| known != value) {
                    return Err(self.wrong(
                        format!("provider.{}.{key}", other.name),
                        format!(
                            "differs from that of provider.{first}, and both have the limits {group:?}; state it once"
                        ),
                    ));
                }
            }
        }
        Ok(())
    }
}
