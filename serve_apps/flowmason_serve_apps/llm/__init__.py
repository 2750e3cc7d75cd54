"""Models on Ray Serve, and an endpoint for them that speaks OpenAI's protocol.

cli        `fm model`
app        `make_gateway`: the endpoint, behind the Studio's door; bodies, folding, spoken: its protocol
till       what its calls use, in the ledger and the budget of their org
engines    what every engine offers; llama and vllm: two of them
deploy     the applications on Serve; handles: models for whoever runs on the same cluster (these and vllm import Ray)
    wanted     what a Studio should serve; keeping: its keeper sees to it; provider: the provider `models`
"""
