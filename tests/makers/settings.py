"""The blocks of params.yaml, read from the settings classes; a params file with recipes that extend each other."""

from typing import Any, get_args

from stages.schema.block import Block

EXTENDED = """
factorize: {budget: 0.25}
distill: {epochs: 7, objectives: {kl: {temperature: 3}}}
recipes:
  parent:
    factorize: {rank_rule: ratio}
    distill: {learning_rate: 0.1, objectives: {kl: {weight: 2}, hidden_cosine: {}}}
  child: {extends: parent, factorize: {budget: 0.5}, distill: {epochs: 1}}
  other_terms: {extends: child, distill: {objectives: {kl: {}, hard: {}}}}
  untrained: {extends: child, distill: null}
  trained_again: {extends: untrained, distill: {epochs: 2}}
"""


def list_blocks(form: Any) -> set[type[Block]]:
    """A settings class and all that are nested in its fields, however deep."""
    if isinstance(form, type) and issubclass(form, Block):
        return {form}.union(*(list_blocks(field.annotation) for field in form.model_fields.values()))
    return set().union(*map(list_blocks, get_args(form)))
