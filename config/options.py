"""Every option of the configuration file: name, type, default, range, meaning. Frozen pydantic models."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PrivateAttr,
    StrictBool,
    field_validator,
    model_validator,
)

from tta_dev_primitives.config import option_types
from tta_dev_primitives.config.models.providers import ProviderName, load_providers
from tta_dev_primitives.config.models.targets import Billing, default_billing
from tta_dev_primitives.config.reading.dotenv import find_variable

logger = logging.getLogger(__name__)

USE_CASES = ("simple", "moderate", "complex", "expert", "speed-critical", "reasoning")


class _Options(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, use_attribute_docstrings=True
    )


class PriceConfig(_Options):
    """A price of your own for one model; it stands above every price table."""

    input_usd_per_mtok: option_types.UsdPerMtok
    """USD per million prompt tokens."""
    output_usd_per_mtok: option_types.UsdPerMtok
    """USD per million output tokens."""
    cache_read_usd_per_mtok: option_types.UsdPerMtok | None = None
    """USD per million prompt tokens read from the provider's cache; default: the price of fresh ones."""
    cache_write_usd_per_mtok: option_types.UsdPerMtok | None = None
    """USD per million prompt tokens written to the provider's cache; default: the price of fresh ones."""


class LimitsConfig(_Options):
    """Limits of your key for one model; runs keep within them."""

    rpm: option_types.WholeNumber | None = Field(None, ge=1)
    """Requests a minute."""
    rpd: option_types.WholeNumber | None = Field(None, ge=1)
    """Requests a day."""
    tpm: option_types.WholeNumber | None = Field(None, ge=1)
    """Tokens a minute."""
    tpd: option_types.WholeNumber | None = Field(None, ge=1)
    """Tokens a day."""


class CapabilitiesConfig(_Options):
    """What one model takes, above the catalogue and above what its provider's refusals have taught."""

    temperature: StrictBool | None = None
    """Whether it takes a temperature."""
    system_role: StrictBool | None = None
    """Whether it takes a system text; false sends that text in the user's turn."""
    stop: StrictBool | None = None
    """Whether it takes stop sequences."""
    json_mode: Literal["none", "json_object", "json_schema", "tool"] | None = None
    """How it is asked for JSON; `tool` is for Anthropic only."""
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] | None = None
    """Name of the field that limits the answer, on OpenAI-compatible servers."""
    thinking: (
        Literal[
            "none", "gemini_budget", "gemini_level", "anthropic_adaptive", "groq_effort", "openrouter_effort"
        ]
        | None
    ) = None
    """How hidden reasoning is turned down; none sends nothing about it."""
    cache_min_tokens: option_types.WholeNumber | None = Field(default=None, ge=0)
    """Anthropic: least tokens of a shared system text that is marked for the prompt cache; 0 marks none."""


class _Endpoint(_Options):
    """What any model may say beyond its name."""

    billing: Billing | None = None
    """free or paid: what the plan of your key costs. Default: by provider."""
    base_url: option_types.Address | None = None
    """Another address than the provider's own, written as the provider's official SDK takes it."""
    api_model: option_types.ModelName | None = None
    """The id to send, when it differs from `model`."""
    max_output_tokens: option_types.WholeNumber = Field(2048, ge=1, le=1_000_000)
    """Longest answer, in tokens; it bounds the cost of a call."""
    timeout_s: option_types.Seconds = 120.0
    """Deadline of one call, in seconds."""
    price: PriceConfig | None = None
    """A price of your own, above every price table."""
    limits: LimitsConfig | None = None
    """Limits of your key for this model."""
    capabilities: CapabilitiesConfig | None = None
    """What the model takes, where the catalogue is wrong or does not know it."""

    @property
    def said_billing(self) -> Billing | None:
        """`billing` if it was given, not filled in."""
        return self.billing if "billing" in self.model_fields_set else None


class OrchestratorConfig(_Endpoint):
    """The paid model that plans and validates."""

    model: option_types.ModelName = "claude-sonnet-4.5"
    """Model name for the orchestrator."""
    api_key_env: option_types.VariableName = "ANTHROPIC_API_KEY"
    """Environment variable that holds the API key."""
    provider: ProviderName | None = None
    """Default: the provider that the model catalogue names for the model, else anthropic."""

    @property
    def said_provider(self) -> ProviderName | None:
        """`provider` if it was given, not filled in."""
        return self.provider if "provider" in self.model_fields_set else None

    @model_validator(mode="after")
    def _fill_in(self) -> Self:
        if self.provider is None and self.model.startswith("claude-"):
            self.__dict__["provider"] = "anthropic"
        if self.billing is None and self.provider is not None:
            self.__dict__["billing"] = default_billing(self.provider, self.api_model or self.model)
        return self


class ExecutorConfig(_Endpoint):
    """A model that does the bulk of the work."""

    model: option_types.ModelName
    """Model name, for example gemini-2.5-pro."""
    provider: ProviderName
    """Who serves the model."""
    api_key_env: option_types.VariableName
    """Environment variable that holds the API key."""
    use_cases: list[str] = Field(json_schema_extra={"items": {"type": "string", "enum": list(USE_CASES)}})
    """Kinds of task that this executor takes."""

    @model_validator(mode="before")
    @classmethod
    def _usual_key(cls, data: Any) -> Any:
        """A preset has a usual variable for its key; the other providers' executors name theirs."""
        if isinstance(data, dict) and "api_key_env" not in data and isinstance(data.get("provider"), str):
            preset = load_providers().get(data["provider"])
            if preset is not None and preset.base_url is not None:
                return {**data, "api_key_env": preset.api_key_env}
        return data

    @field_validator("use_cases")
    @classmethod
    def _only_known_use_cases(cls, value: list[str]) -> list[str]:
        unknown = [use_case for use_case in dict.fromkeys(value) if use_case not in USE_CASES]
        if unknown:
            raise ValueError(f"Invalid use_cases: {_braced(unknown)}. Must be one of: {_braced(USE_CASES)}")
        return value

    @model_validator(mode="after")
    def _fill_in(self) -> Self:
        if self.billing is None:
            self.__dict__["billing"] = default_billing(self.provider, self.api_model or self.model)
        return self


class FallbackStrategy(_Options):
    """Which models to try when the first choice fails."""

    models: list[option_types.ModelName] = Field(
        default_factory=lambda: ["gemini-2.5-pro", "llama-3.3-70b-versatile", "claude-sonnet-4.5"]
    )
    """Models in the order to try them; free ones first, paid ones last."""
    max_attempts: option_types.WholeNumber = Field(6, ge=1, le=50)
    """Attempts at one task over all models."""


class CostTrackingConfig(_Options):
    """The monthly budget. `budget_limit` is the exact amount, as the file or variable wrote it."""

    enabled: StrictBool = True
    """Enable cost tracking."""
    budget_limit_usd: option_types.Usd = 100.0
    """Monthly budget limit in USD; no paid call goes beyond it."""
    alert_threshold: option_types.Fraction = 0.8
    """Alert when this share of the budget is spent (0.0-1.0)."""
    on_exhausted: Literal["free_only", "stop", "ask"] = "free_only"
    """When the budget is spent: go on with free models, stop, or ask a person in the Prefect UI."""
    approval_timeout_s: option_types.WholeNumber = Field(86_400, ge=1, le=2_592_000)
    """on_exhausted ask: seconds a run waits for a person before it fails."""
    ledger_url: option_types.LedgerUrl | None = Field(None, repr=False)
    """Where spending is recorded: sqlite:///path or postgresql://...; default: a file under TTA_HOME."""
    timezone: option_types.ZoneName = "UTC"
    """Time zone of the budget's months, and of the times in reports."""

    _exact_limit: Decimal = PrivateAttr(default=Decimal(100))

    @model_validator(mode="wrap")
    @classmethod
    def _keep_the_exact_amount(
        cls, data: Any, handler: ModelWrapValidatorHandler[CostTrackingConfig]
    ) -> CostTrackingConfig:
        config = handler(data)
        written = data.get("budget_limit_usd") if isinstance(data, dict) else None
        exact = option_types.usd_decimal(config.budget_limit_usd if written is None else written)
        if not isinstance(data, CostTrackingConfig):
            config._exact_limit = exact
        return config

    @property
    def limit(self) -> Decimal | None:
        """`budget_limit`; None when cost tracking is off: no limit."""
        return self.budget_limit if self.enabled else None

    @property
    def budget_limit(self) -> Decimal:
        """The monthly limit in USD, exact: from the text of the YAML or variable, never through a float."""
        if float(self._exact_limit) != self.budget_limit_usd:  # a copy with another limit
            return Decimal(repr(self.budget_limit_usd))
        return self._exact_limit


class ValidationConfig(_Options):
    """How answers are checked before they are delivered."""

    mode: Literal["adaptive", "always", "never"] = "adaptive"
    """adaptive: free evidence first, the paid model where needed; always: a paid verdict on each answer;
    never: local checks only."""
    gate: Literal["balanced", "strict"] = "balanced"
    """strict holds the quality bound with proof; balanced saves more."""
    agreement: option_types.WholeNumber = Field(2, ge=2, le=5)
    """How many free models must give the same answer for it to count as agreed."""
    learning_credit_usd: option_types.Usd | None = None
    """USD a month that paid executors may cost before they have saved as much; default: 0.1 % of the budget."""


class ReviewConfig(_Options):
    """What `tta job review` takes and refuses in this repository."""

    include: list[str] = Field(default_factory=list)
    """Globs of the paths to review, for example src/**; empty: all."""
    exclude: list[str] | None = None
    """Globs of paths to leave out; default: lock files, images, generated and foreign code."""
    fail_on: Literal["high", "medium", "any"] | None = None
    """Findings from this severity on make the command exit with 1; default: findings do not."""


def _guide_executors() -> list[ExecutorConfig]:
    rows: tuple[tuple[str, ProviderName, str, list[str]], ...] = (
        ("gemini-2.5-pro", "google-ai-studio", "GOOGLE_API_KEY", ["moderate", "complex"]),
        ("llama-3.3-70b-versatile", "groq", "GROQ_API_KEY", ["simple", "speed-critical"]),
        ("deepseek/deepseek-r1:free", "openrouter", "OPENROUTER_API_KEY", ["complex", "reasoning"]),
    )
    return [
        ExecutorConfig(model=model, provider=provider, api_key_env=variable, use_cases=use_cases)
        for model, provider, variable, use_cases in rows
    ]


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a configuration came from. It does not count when configurations are compared."""

    source: Path | None = field(default=None, compare=False)
    overrides: Mapping[str, str] = field(default_factory=dict, compare=False)
    digest: str | None = field(default=None, compare=False)
    from_folder: bool = field(default=False, compare=False)
    """The file was found by search in the working folder, rather than chosen by the user."""
    environment: bool = field(default=True, compare=False)
    """The `TTA_*` variables may override the file."""
    cost_tracking: CostTrackingConfig | None = field(default=None, compare=False)
    """The section as it was loaded, whatever a copy has changed since."""


class OrchestrationConfig(_Options):
    """All settings of an orchestration, with the file and the variables they came from."""

    enabled: StrictBool = True
    """Enable orchestration; when false, tasks go straight to the orchestrator model."""
    prefer_free_models: StrictBool = True
    """Prefer free models when quality is sufficient."""
    quality_threshold: option_types.Fraction = 0.85
    """Expected share of the delivered answers that the orchestrator would accept, at least (0-1)."""
    orchestrator: OrchestratorConfig = Field(default_factory=OrchestratorConfig)
    """The model that plans and validates."""
    executors: list[ExecutorConfig] = Field(default_factory=_guide_executors)
    """The models that do the work, in order of preference."""
    fallback_strategy: FallbackStrategy = Field(default_factory=FallbackStrategy)
    """Which models to try when the first choice fails."""
    cost_tracking: CostTrackingConfig = Field(default_factory=CostTrackingConfig)
    """The monthly budget."""
    on_retired: Literal["replace", "skip"] = "replace"
    """When a provider no longer serves a model: take the catalogue's replacement, or the next model."""
    planning: Literal["auto", "always", "never"] = "auto"
    """Whether the orchestrator plans tasks: only compound or unclear ones, all, or none."""
    routing: Literal["file", "learned"] = "file"
    """Order of the executors of a use case: as in the file, or by how often the paid model accepted them and how fast
    they are, once enough is known."""
    validation: ValidationConfig = Field(default_factory=ValidationConfig)
    """How answers are checked."""
    review: ReviewConfig = Field(default_factory=ReviewConfig)
    """Settings of the review job."""
    allow_private_hosts: StrictBool = False
    """Allow a base_url on this machine or a private network."""
    prefect_limits: StrictBool = False
    """Occupy a slot of the Prefect global concurrency limit `tta-<provider>` for each call, on all machines."""

    _provenance: Provenance = PrivateAttr(default_factory=Provenance)

    @property
    def learning_credit(self) -> Decimal:
        """USD by which paid executors may exceed what was saved so far, until their answers are trusted."""
        return self.learning_credit_of(self.cost_tracking.budget_limit)

    def learning_credit_of(self, budget_limit: Decimal) -> Decimal:
        """The learning credit under another limit of the month."""
        given = self.validation.learning_credit_usd
        return budget_limit / 1000 if given is None else Decimal(repr(given))

    @property
    def provenance(self) -> Provenance:
        """Where this came from."""
        return self._provenance

    @property
    def source(self) -> Path | None:
        """The file this was loaded from; None for defaults and for settings made in code."""
        return self._provenance.source

    @property
    def digest(self) -> str | None:
        """SHA-256 of the file's bytes, as they were loaded."""
        return self._provenance.digest

    @property
    def overrides(self) -> Mapping[str, str]:
        """Which environment variable replaced which key, for example TTA_QUALITY_THRESHOLD -> its key."""
        return MappingProxyType(dict(self._provenance.overrides))

    def with_provenance(self, provenance: Provenance) -> OrchestrationConfig:
        """The same settings, said to come from `provenance`."""
        copy = self.model_copy()
        copy._provenance = provenance
        return copy

    @property
    def fallback_models(self) -> list[str]:
        """The fallback list as runs use it.

        A file with executors of its own that gives no list does not mean the guide's default models: of those, only
        the ones that it names count.
        """
        models = self.fallback_strategy.models
        if "executors" not in self.model_fields_set or "models" in self.fallback_strategy.model_fields_set:
            return models
        defined = {executor.model for executor in self.executors}
        if "model" in self.orchestrator.model_fields_set:
            defined.add(self.orchestrator.model)
        return [model for model in models if model in defined]

    def get_executor_for_use_case(self, use_case: str) -> ExecutorConfig | None:
        """The first executor that takes `use_case`, or None."""
        return next((executor for executor in self.executors if use_case in executor.use_cases), None)

    def get_api_key(self, api_key_env: str) -> str | None:
        """The value of the variable `api_key_env` (environment, then `.env`), or None with a warning."""
        found = find_variable(api_key_env)
        if found is not None:
            return found.text
        name = (
            "the variable (its name looks like a key)"
            if option_types.looks_like_a_key(api_key_env)
            else api_key_env
        )
        logger.warning(
            "API key not found: %s is not set. Set it with: export %s=your-key, or add that line to .env",
            name,
            "NAME" if name != api_key_env else name,
        )
        return None


class ConfigFile(_Options):
    """A configuration file: one key, `orchestration`."""

    orchestration: OrchestrationConfig


def _braced(names: Any) -> str:
    return "{" + ", ".join(repr(name) for name in names) + "}"
