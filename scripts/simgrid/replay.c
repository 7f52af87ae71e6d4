/* Replays the communication of one training step, as `replay.py` wrote it, and prints the seconds that it took.

   usage: smpirun ... replay FILE

   FILE: a line per movement, in the order of the step. Numbers of a group are (size, stride) pairs over the ranks.
     gather  BYTES  (size stride)...     all-gather; BYTES: the whole, in equal parts
     scatter BYTES  (size stride)...     reduce-scatter of BYTES
     sum     BYTES  (size stride)...     all-reduce of BYTES
     swap    BYTES  (size stride)...     all-to-all, BYTES sent by each rank
     send    BYTES  OFFSET               every rank sends BYTES to rank + OFFSET (round the end)                     */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KNOWN 256  /* communicators that are kept: a step has a few dozen */

static struct { char key[256]; MPI_Comm comm; } known[KNOWN];
static int count = 0;

/* The communicator of the ranks that differ from mine in the digits of `text` only. */
static MPI_Comm group(const char *text, int rank)
{
    long size, stride, colour = rank, place = 0;
    int used;
    for (int i = 0; i < count; i++)
        if (!strcmp(known[i].key, text)) return known[i].comm;
    if (count == KNOWN || strlen(text) >= sizeof known[0].key) MPI_Abort(MPI_COMM_WORLD, 2);
    for (const char *at = text; sscanf(at, "%ld %ld%n", &size, &stride, &used) == 2; at += used) {
        long digit = rank / stride % size;
        colour -= digit * stride;
        place = place * size + digit;
    }
    strcpy(known[count].key, text);
    MPI_Comm_split(MPI_COMM_WORLD, (int)colour, (int)place, &known[count].comm);
    return known[count++].comm;
}

static void move(const char *kind, long bytes, const char *rest, int rank, int ranks, float *a, float *b)
{
    int size, floats = (int)(bytes / 4);
    if (!strcmp(kind, "send")) {
        long offset = atol(rest);
        int to = (int)(((rank + offset) % ranks + ranks) % ranks), from = (int)(((rank - offset) % ranks + ranks) % ranks);
        MPI_Sendrecv(a, floats, MPI_FLOAT, to, 0, b, floats, MPI_FLOAT, from, 0, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
        return;
    }
    MPI_Comm comm = group(rest, rank);
    MPI_Comm_size(comm, &size);
    int part = (floats + size - 1) / size;
    if (!strcmp(kind, "gather")) MPI_Allgather(a, part, MPI_FLOAT, b, part, MPI_FLOAT, comm);
    else if (!strcmp(kind, "scatter")) MPI_Reduce_scatter_block(a, b, part, MPI_FLOAT, MPI_SUM, comm);
    else if (!strcmp(kind, "sum")) MPI_Allreduce(a, b, floats, MPI_FLOAT, MPI_SUM, comm);
    else if (!strcmp(kind, "swap")) MPI_Alltoall(a, part, MPI_FLOAT, b, part, MPI_FLOAT, comm);
    else MPI_Abort(MPI_COMM_WORLD, 2);
}

int main(int argc, char **argv)
{
    char line[512], kind[16], rest[256];
    long bytes, largest = 4, total = 0;
    int rank, ranks, moves = 0;
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    FILE *file = argc == 2 ? fopen(argv[1], "r") : NULL;
    if (!file) MPI_Abort(MPI_COMM_WORLD, 2);
    for (int pass = 0; pass < 2; pass++) {  /* the first one makes buffers' size known, and the communicators */
        rewind(file);
        float *a = NULL, *b = NULL;
        double started = 0;
        if (pass) {  /* shared by all simulated ranks: the contents do not matter */
            a = SMPI_SHARED_MALLOC((size_t)largest * 2 + 4096);
            b = SMPI_SHARED_MALLOC((size_t)largest * 2 + 4096);
            MPI_Barrier(MPI_COMM_WORLD);
            started = MPI_Wtime();
        }
        while (fgets(line, sizeof line, file)) {
            rest[0] = 0;
            if (sscanf(line, "%15s %ld %255[^\n]", kind, &bytes, rest) < 2) continue;
            if (pass) { move(kind, bytes, rest, rank, ranks, a, b); continue; }
            if (strcmp(kind, "send")) group(rest, rank);
            if (bytes > largest) largest = bytes;
            total += bytes; moves++;
        }
        if (pass) {
            MPI_Barrier(MPI_COMM_WORLD);
            if (!rank) printf("%.9f seconds for %d movements on %d ranks\n", MPI_Wtime() - started, moves, ranks);
            SMPI_SHARED_FREE(a);
            SMPI_SHARED_FREE(b);
        }
    }
    fclose(file);
    MPI_Finalize();
    return 0;
}
