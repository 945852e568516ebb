"""Turns as the scripted teacher writes them, whatever the task.

First thoughts have equal length in tokens: then every strategy names the facts at the same distance from the prompt,
and a model of the size trained here copies by distance. They name the strategy and not the task, so that what is
learned of a strategy in one task is known in the others.
"""

ALL_FACTS = "I compare every candidate with all facts."
ONE_FACT = "I look one of the facts up."
ONE_BY_ONE = "I look the facts up in turn."
GUESS = "I guess at one of the candidates."
NEXT = "I look the next fact up."
VERIFY = "I verify against the excluded facts."
VERIFY_ANOTHER = "I verify that no other fits as well."
VERIFY_FURTHER = "I verify against one more fact."
ANSWER = "I answer what my code has found."
"""Thought before every answer that code has found."""


def copy_facts(prompt: str) -> str:
    """Code that holds what a prompt tells between its task and its output format, word for word.

    So every token of it stands at one distance from where it is copied, whatever the task.
    """
    told = prompt.partition("\n")[2].partition("\nOutput format: ")[0]
    return f'import json, re\nq = """{told}"""\n'


def execute(thought: str, code: str) -> str:
    """A turn that runs code."""
    return f"<think>\n{thought}\n</think>\n<execute>\n{code}\n</execute>"


def solution(thought: str, answer: str) -> str:
    """A turn that answers."""
    return f"<think>\n{thought}\n</think>\n<solution>\n{answer}\n</solution>"
