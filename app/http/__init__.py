"""The server side of HTTP connections: how long a client may take, how many may be open, what every answer carries.

uvicorn closes idle connections and nothing else: a client that stops half-way through a request keeps its connection,
its task and its file for ever. hypercorn has one time-out for reading, granian one for the head; neither knows a least
rate, nor which connection to give up when there are too many. So uvicorn's protocol is extended here, at the places
where its transport calls it.
"""
