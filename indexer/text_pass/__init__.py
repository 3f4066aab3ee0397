"""The pass over the text: blocks of passages through the model and the dictionaries, on one machine or on
Ray.
"""
