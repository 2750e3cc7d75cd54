"""Components of this project: an operator, which computes, and a node, which asks a language model."""

from flowmason import Context, Field, NodeInput, NodeOutput, OperatorInput, OperatorOutput, StageError, node, operator


@operator(name="word_count", category="examples", description="Counts the words of a text.")
class WordCount:
    class Input(OperatorInput):
        text: str = Field(min_length=1)
        at_least: int = Field(default=1, ge=1, description="Only words of so many letters.")

    class Output(OperatorOutput):
        counted: int
        longest: str

    async def execute(self, input: Input, context: Context) -> Output:
        words = [word.strip(".,!?") for word in input.text.split()]
        words = [word for word in words if len(word) >= input.at_least]
        if not words:
            raise StageError("there are no such words", code="NO_WORDS")
        return self.Output(counted=len(words), longest=max(words, key=len))


@node(name="polite_reply", category="examples", description="Answers a review.", timeout=60, max_retries=1)
class PoliteReply:
    class Input(NodeInput):
        review: str
        about: str

    class Output(NodeOutput):
        text: str
        tokens: int

    async def execute(self, input: Input, context: Context) -> Output:
        context.logger.info("asking", about=input.about)
        answer = await context.llm.generate(
            f"Thank the customer for the word {input.about!r} in: {input.review}", max_tokens=40
        )
        return self.Output(text=answer.text.strip(), tokens=answer.total_tokens)
