"""Ray actors, each in one file: node hosts today. Nothing here knows a command line or HTTP."""
