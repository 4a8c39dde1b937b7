"""How requests to a database are worded, by the kind of statement.

Slots: `{t}` the table, `{c}` a column, `{g}` the column of the groups, `{n}` a number of rows, `{w}` the
conditions with a blank before them, `{v}` the value in a condition.
"""

from __future__ import annotations

from collections.abc import Mapping

from examples.smollm2.question import Part

Wordings = Mapping[str, tuple[str, ...]]

_TRAIN: Wordings = {
    "equal": (
        *("whose {c} is {v}", "with the {c} {v}", "where the {c} is {v}", "where {c} equals {v}"),
        *("that have {v} as {c}", "with {c} = {v}", "where {c} is {v}", "if the {c} is {v}"),
        *("of {c} {v}", "which have the {c} {v}", "but only those with {c} {v}"),
        *("given that {c} is {v}", "in case the {c} is {v}", "for {c} {v}"),
    ),
    "greater": (
        *("with {c} above {v}", "whose {c} is greater than {v}", "where {c} is over {v}", "with {c} > {v}"),
        *("with a {c} of more than {v}", "where the {c} is larger than {v}", "with a {c} higher than {v}"),
        *("if the {c} is above {v}", "that have more than {v} as {c}", "but only those with {c} over {v}"),
        *("given that {c} is more than {v}", "in case the {c} is greater than {v}"),
    ),
    "less": (
        *("with {c} below {v}", "whose {c} is less than {v}", "where {c} is under {v}", "with {c} < {v}"),
        *("with a {c} of less than {v}", "where the {c} is smaller than {v}", "with a {c} lower than {v}"),
        *("if the {c} is below {v}", "that have less than {v} as {c}", "but only those with {c} under {v}"),
        *("given that {c} is below {v}", "in case the {c} is less than {v}"),
    ),
    "count": (
        *("How many {t} are there{w}?", "Count the {t}{w}.", "What is the number of {t}{w}?"),
        *("Number of {t}{w}.", "Tell me how many {t} we have{w}.", "Count all {t}{w}."),
        *("What is the size of the set of {t}{w}?", "I need the count of all {t}{w}.", "{t}{w}: how many?"),
    ),
    "SUM": (
        *(
            "What is the total {c} of the {t}{w}?",
            "Sum up the {c} of all {t}{w}.",
            "Add up {c} over the {t}{w}.",
        ),
        *(
            "What is the sum of {c} for {t}{w}?",
            "Total {c} of {t}{w}.",
            "Taken together, what {c} have the {t}{w}?",
        ),
    ),
    "AVG": (
        *("What is the average {c} of the {t}{w}?", "Mean {c} of all {t}{w}."),
        *(
            "Compute the average {c} for {t}{w}.",
            "Average {c} of {t}{w}.",
            "Find the mean {c} of the {t}{w}.",
            "What {c} do the {t} have on average{w}?",
            "How high is the {c} of {t} in the mean{w}?",
        ),
    ),
    "MAX": (
        *("What is the highest {c} of the {t}{w}?", "Find the largest {c} of all {t}{w}."),
        *(
            "What is the maximum {c} for {t}{w}?",
            "Maximum {c} of {t}{w}.",
            "Give the biggest {c} of the {t}{w}.",
            "What {c} is the largest that any of the {t} has{w}?",
            "Highest {c} among the {t}{w}?",
            "What is the greatest {c} in {t}{w}?",
            "Output the peak {c} seen in {t}{w}.",
            "Get the upper limit of {c} in {t}{w}.",
        ),
    ),
    "MIN": (
        *("What is the lowest {c} of the {t}{w}?", "Find the smallest {c} of all {t}{w}."),
        *(
            "What is the minimum {c} for {t}{w}?",
            "Minimum {c} of {t}{w}.",
            "Give the least {c} of the {t}{w}.",
            "What {c} is the smallest that any of the {t} has{w}?",
            "Lowest {c} among the {t}{w}?",
            "What is the minimal {c} in {t}{w}?",
            "Output the bottom {c} seen in {t}{w}.",
            "Get the lower limit of {c} in {t}{w}.",
        ),
    ),
    "column": (
        *("Show the {c} of all {t}{w}.", "List the {c} of the {t}{w}.", "Get {c} from {t}{w}."),
        *("What is the {c} of the {t}{w}?", "Give me the {c} of every one of the {t}{w}."),
        *("Read out the {c} of {t}{w}.", "Which {c} do the {t} have{w}?", "Return each {c} of the {t}{w}."),
        *("Output the {c} of the {t}{w}.", "Write out the {c} for the {t}{w}."),
    ),
    "rows": (
        *("Show all {t}{w}.", "List the {t}{w}.", "Find all {t}{w}.", "Give me everything about {t}{w}."),
        *("Select the {t}{w}.", "I want to see the {t}{w}.", "Display all rows of {t}{w}."),
        *("Which of the {t} are there{w}?", "Give back the complete rows of {t}{w}."),
        *("Output each row of {t}{w}.", "Get every record of {t}{w}.", "Write out all entries of {t}{w}."),
        *("Get the {t}{w}.", "Every line of {t}{w}.", "Output the {t}{w}."),
    ),
    "top": (
        *(
            "Show the {n} {t} with the highest {c}.",
            "Top {n} {t} by {c}.",
            "List the {n} {t} with the largest {c}.",
        ),
        *("Which {n} {t} have the highest {c}?", "Find the {n} {t} with the most {c}, highest first."),
        *(
            "Sort {t} by {c} and show the first {n}.",
            "The {n} {t} that lead by {c}.",
            "Best {n} of the {t} by {c}.",
        ),
    ),
    "count groups": (
        *("How many {t} are there per {g}?", "Count the {t} for each {g}.", "Number of {t} by {g}."),
        *("Show every {g} with its number of {t}.", "Count {t} grouped by {g}.", "Per {g}, count the {t}."),
        *(
            "In each {g}, how many {t} are there?",
            "Split {t} by {g} and count them.",
            "{t} per {g}: how many?",
        ),
    ),
    "SUM groups": (
        *("What is the total {c} of {t} per {g}?", "Sum of {c} of the {t} for each {g}."),
        *("Per {g}, give the total {c} of the {t}.", "In each {g}, what is the total {c} of {t}?"),
        *("Group {t} by {g} and show the sum of {c}.", "Each {g} with the total {c} of its {t}."),
    ),
    "AVG groups": (
        *("What is the average {c} of {t} per {g}?", "Average {c} of the {t} for each {g}."),
        *("Per {g}, give the average {c} of the {t}.", "In each {g}, what is the average {c} of {t}?"),
        *("Group {t} by {g} and show the mean of {c}.", "Each {g} with the average {c} of its {t}."),
    ),
    "MAX groups": (
        *("What is the highest {c} of {t} per {g}?", "Maximum {c} of the {t} for each {g}."),
        *("Per {g}, give the highest {c} of the {t}.", "In each {g}, what is the highest {c} of {t}?"),
        *("Group {t} by {g} and show the maximum of {c}.", "Each {g} with the highest {c} of its {t}."),
    ),
    "MIN groups": (
        *("What is the lowest {c} of {t} per {g}?", "Minimum {c} of the {t} for each {g}."),
        *("Per {g}, give the lowest {c} of the {t}.", "In each {g}, what is the lowest {c} of {t}?"),
        *("Group {t} by {g} and show the minimum of {c}.", "Each {g} with the lowest {c} of its {t}."),
    ),
}
_HELD_OUT: Wordings = {
    "equal": ("having the {c} {v}", "for which {c} is {v}", "if their {c} is {v}"),
    "greater": ("having a {c} above {v}", "for which {c} exceeds {v}", "if their {c} is bigger than {v}"),
    "less": ("having a {c} below {v}", "for which {c} is less than {v}", "if their {c} is smaller than {v}"),
    "count": (
        "How large is the number of {t}{w}?",
        "Give me a count of {t}{w}.",
        "Say how many {t} exist{w}.",
    ),
    "SUM": ("Give the sum of the {c} of {t}{w}.", "How much {c} do the {t} have in total{w}?"),
    "AVG": ("On average, what is the {c} of {t}{w}?", "Give the mean of {c} over {t}{w}."),
    "MAX": ("Which {c} is the highest among the {t}{w}?", "Return the top {c} found in {t}{w}."),
    "MIN": ("Which {c} is the lowest among the {t}{w}?", "Return the smallest {c} found in {t}{w}."),
    "column": ("Print the {c} of the {t}{w}.", "Fetch the {c} for all {t}{w}."),
    "rows": ("Return the {t}{w}.", "Which {t} are there{w}? Show them.", "Print every row of {t}{w}."),
    "top": ("Return the {n} {t} that have the greatest {c}.", "Best {n} {t} when sorted by {c}."),
    "count groups": ("For every {g}, how many {t} do we have?", "Break the number of {t} down by {g}."),
    "SUM groups": ("For every {g}, what is the total {c} of the {t}?",),
    "AVG groups": ("For every {g}, what is the average {c} of the {t}?",),
    "MAX groups": ("For every {g}, what is the highest {c} of the {t}?",),
    "MIN groups": ("For every {g}, what is the lowest {c} of the {t}?",),
}
WORDINGS: Mapping[Part, Wordings] = {"train": _TRAIN, "held_out": _HELD_OUT}
