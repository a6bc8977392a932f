/* Counts the primes up to a number; fails if there are not as many as are expected. */
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    long limit = argc > 1 ? atol(argv[1]) : 100;
    char *composite = calloc(limit + 1, 1);
    long count = 0;
    if (!composite)
        return 2;
    for (long n = 2; n <= limit; n++) {
        if (composite[n])
            continue;
        count++;
        for (long multiple = n * n; multiple <= limit; multiple += n)
            composite[multiple] = 1;
    }
    printf("%ld\n", count);
    return argc > 2 && count != atol(argv[2]);
}
