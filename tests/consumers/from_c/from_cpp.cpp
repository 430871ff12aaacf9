// The same source is C++, too.
#define MODULE "from_cpp"
#define INITIALISE PyInit_from_cpp
#include "from_c.c"
