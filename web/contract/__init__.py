"""The API's contract: one model for each document sent or answered, to parse, answer and publish it."""
