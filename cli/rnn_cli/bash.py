"""Completion in Bash, which takes the characters : and = for the ends of words."""

from __future__ import annotations

import os

from click.shell_completion import BashComplete, CompletionItem, add_completion_class, split_arg_string

SCRIPT = """\
%(complete_func)s() {
    local IFS=$'\\n'
    local response

    response=$(env COMP_LINE="${COMP_LINE:0:$COMP_POINT}" COMP_WORDBREAKS="$COMP_WORDBREAKS" \\
        %(complete_var)s=bash_complete "$1")

    for completion in $response; do
        IFS=',' read type value <<< "$completion"

        if [[ $type == 'file' ]]; then
            COMPREPLY=()
            compopt -o default
        elif [[ $type == 'plain' ]]; then
            COMPREPLY+=("$value")
            [[ $value == *[=:.] ]] && compopt -o nospace
        fi
    done

    return 0
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""
"""The function that Bash calls: it passes the line up to the cursor, and adds no space where a word goes on."""


class Bash(BashComplete):
    """Completes whole words, of which Bash replaces only the part behind the last : or =."""

    source_template = SCRIPT

    _kept = 0  # characters of the word that Bash keeps

    def get_completion_args(self) -> tuple[list[str], str]:
        """The words before the one that is completed, and that one."""
        if "COMP_LINE" not in os.environ:  # called by the script of an older version
            return super().get_completion_args()
        line, breaks = os.environ["COMP_LINE"], os.environ.get("COMP_WORDBREAKS", "")
        words = split_arg_string(line)
        word = words.pop() if words and not line[-1].isspace() else ""
        value = word.partition("=")[2] if word.startswith("-") else word  # Click completes what is behind --option=
        self._kept = 1 + max((value.rfind(mark) for mark in ":=" if mark in breaks), default=-1)
        return words[1:], word

    def format_completion(self, item: CompletionItem) -> str:
        """The part of a completion that Bash puts in."""
        return f"{item.type},{item.value[self._kept :]}"


add_completion_class(Bash)
