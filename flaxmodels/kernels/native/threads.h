// Parallel loops on XLA's own thread pool.

#pragma once

#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "ffi.h"

// Computes one unit of work; units are independent of each other.
typedef void Work(void *arguments, int64_t unit);

// `holders` counts the threads that may still access the job; the last one frees it.
typedef struct {
  Work *work;
  void *arguments;
  int64_t units;
  atomic_int_least64_t next, done, holders;
} Job;

static inline void run_units(Job *job) {
  int64_t unit;
  while ((unit = atomic_fetch_add(&job->next, 1)) < job->units) {
    job->work(job->arguments, unit);
    atomic_fetch_add(&job->done, 1);
  }
}

static inline void release_job(Job *job) {
  if (atomic_fetch_sub(&job->holders, 1) == 1) free(job);
}

static inline void help_with_job(void *job) {
  run_units(job);
  release_job(job);
}

static inline void destroy_error(XLA_FFI_CallFrame *frame, XLA_FFI_Error *error) {
  XLA_FFI_Error_Destroy_Args args = {sizeof args, NULL, error};
  frame->api->XLA_FFI_Error_Destroy(&args);
}

static inline int64_t thread_count(XLA_FFI_CallFrame *frame) {
  int64_t threads = 1;
  XLA_FFI_ThreadPool_NumThreads_Args args = {sizeof args, NULL, frame->ctx, &threads};
  XLA_FFI_Error *error = frame->api->XLA_FFI_ThreadPool_NumThreads(&args);
  if (!error) return threads;
  destroy_error(frame, error);
  return 1;
}

// Runs all units and waits for them; returns 0 if memory runs out. The calling thread works too, so a busy pool can't
// block it.
static inline int parallel_for(XLA_FFI_CallFrame *frame, Work *work, void *arguments, int64_t units) {
  Job *job = malloc(sizeof *job);
  if (!job) return 0;
  int64_t helpers = min64(thread_count(frame), units) - 1;
  *job = (Job){work, arguments, units, 0, 0, 1};
  for (int64_t i = 0; i < helpers; i++) {
    atomic_fetch_add(&job->holders, 1);
    XLA_FFI_ThreadPool_Schedule_Args args = {sizeof args, NULL, frame->ctx, help_with_job, job};
    XLA_FFI_Error *error = frame->api->XLA_FFI_ThreadPool_Schedule(&args);
    if (error) {
      destroy_error(frame, error);
      release_job(job);
    }
  }
  run_units(job);
  for (int64_t spins = 0; atomic_load(&job->done) < units; spins++)
    if (spins > 4000) sched_yield();
  release_job(job);
  return 1;
}

// Largest number of partial sums of a reduction over the batch. It is independent of the number of threads, so the
// result is bit-identical with any number of threads.
enum { MAX_PARTS = 16 };

// The index of the first image of a part.
static inline int64_t first_image(int64_t batch, int64_t part, int64_t parts) { return batch * part / parts; }

// Adds partial sums in order, so that the result does not depend on which thread computed which part.
static inline void sum_parts(float *to, const float *parts, int64_t count, int64_t stride, int64_t size) {
  memset(to, 0, size * sizeof(float));
  for (int64_t part = 0; part < count; part++)
    for (int64_t i = 0; i < size; i++) to[i] += parts[part * stride + i];
}
